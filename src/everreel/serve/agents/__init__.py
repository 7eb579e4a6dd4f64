"""Tools for agents: films made, watched and judged through the Model Context Protocol."""
