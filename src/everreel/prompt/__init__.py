"""Prompts made whole before a film is made: what is not said is added, and what was said stays."""
