"""How good a film is: the critic that reads the fields of a scene off it, and other measures."""
