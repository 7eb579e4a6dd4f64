"""`python -m everreel`, and `torchrun --nproc-per-node N -m everreel` for several processes.

Several processes that make a film follow one that leads; those that train do all the same, so they go another way.
"""

import os
import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["train"] and os.environ.get("WORLD_SIZE", "1") != "1":
        from everreel.train.run import main as train

        sys.exit(train(sys.argv[2:]))
    from everreel.cli import main

    main()
