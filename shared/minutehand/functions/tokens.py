"""The secret tokens that programs send: for the worker's routes, and what only operators read.

Apart from the worker, which the API does not import.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable


def token_matches(offered: str, accepted: Iterable[str]) -> bool:
    """Whether `offered` is one of `accepted` and not empty, compared in constant time."""
    matches = False
    for candidate in accepted:
        # no early exit: a match on the first must take as long as one on the second
        matches |= hmac.compare_digest(offered.encode(), candidate.encode())
    return matches and bool(offered)
