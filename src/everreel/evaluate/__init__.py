"""How good a film is: whether it shows what was asked, drift, and other measures."""
