"""Data curation: clips out of films, measured, filtered by stage, cropped, deduplicated, and shown to people."""
