"""From what one asks for to frames on disk."""
