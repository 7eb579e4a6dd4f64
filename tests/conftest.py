"""One thread: the networks of the tests are small, and threads that share busy cores only wait for each other."""

import torch

torch.set_num_threads(1)
