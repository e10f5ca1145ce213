"""What is too long for each run: once a week it is done whole, and otherwise in a small part.

`make weekly` runs what is marked `weekly`; without it, a test with `only=True` is left out.
"""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")
WEEKLY = bool(os.environ.get("WEEKLY"))


def weekly(whole: T, *, otherwise: T) -> T:
    """The size, or the cases, of this run."""
    return whole if WEEKLY else otherwise
