"""VBench: its prompts, the films it asks for, its dimensions and its totals."""
