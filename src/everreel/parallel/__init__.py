"""Several processes for one film, over torch.distributed; nothing of it is used where there is one."""
