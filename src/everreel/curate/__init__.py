"""Films of any kind made into clips to train on: what is cut, dropped and cropped, and why."""
