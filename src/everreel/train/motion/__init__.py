"""Motion reinforcement learning: preference pairs, a reward model that learns from them, and Flow-DPO."""
