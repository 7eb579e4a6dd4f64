"""Clips, captions and latents on disk, and how they are read back as batches."""
