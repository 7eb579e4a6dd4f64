"""What a film shows, in words: the structured caption, who writes it, and the captions that are fused of it."""
