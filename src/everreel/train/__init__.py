"""Training: one trainer, and one file for each thing that is trained."""
