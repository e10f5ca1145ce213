"""What is too long for each run: `make weekly` does it whole, and each run a small part."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")


def weekly(whole: T, *, otherwise: T) -> T:
    """The size, or the cases, of this run."""
    return whole if os.environ.get("WEEKLY") else otherwise
