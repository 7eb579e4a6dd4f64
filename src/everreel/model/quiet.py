"""Importing libraries that talk while they are imported: torchao, and transformers where torchao is installed.

What they say is of libraries for other devices and of their own deprecations, nothing that a user can act on. The one
invariant: whatever was to be said before is said again afterwards, and errors always are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet() -> Iterator[None]:
    """No warning, of the `warnings` or of the `logging` kind, meanwhile."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def no_bars() -> Iterator[None]:
    """No progress bar of transformers, meanwhile: loading a small model is over before one is read."""
    from transformers.utils import logging as untyped

    talk: Any = untyped  # its functions have no types

    shown = talk.is_progress_bar_enabled()
    talk.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            talk.enable_progress_bar()
