"""`python -m everreel`, and `torchrun --nproc-per-node N -m everreel` for several processes."""

from everreel.cli import main

if __name__ == "__main__":
    main()
