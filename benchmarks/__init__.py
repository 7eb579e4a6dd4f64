"""How fast everreel is, and how its cost grows with a film's length: `make benchmark` writes docs/benchmarks.md."""
