"""Models on disk: which there are, their names in every layout, and loading and saving them strictly."""
