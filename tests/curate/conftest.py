"""One text detector for all tests: it takes seconds to load."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def ocr():
    pytest.importorskip("rapidocr", reason="rapidocr is not installed")
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    from everreel.curate.obstructions import Ocr

    finder, seen = Ocr(), {}

    def lines(frame):
        """What the detector finds; in a frame that was shown to it before, the same."""
        key = (frame.shape, frame.tobytes())
        if key not in seen:
            seen[key] = finder(frame)
        return list(seen[key])

    lines(np.zeros((64, 64, 3), np.uint8))
    return lines
