"""Comparison of secret tokens, for the routes of the worker and for routes of operators.

The API imports this module without importing the worker.
"""

import hmac
from collections.abc import Iterable


def token_matches(offered: str, accepted: Iterable[str]) -> bool:
    """Return whether `offered` is one of `accepted` and not empty, in constant time."""
    matches = False
    for candidate in accepted:
        # compare all tokens, because the time of an early exit would show which token matches
        matches |= hmac.compare_digest(offered.encode(), candidate.encode())
    return matches and bool(offered)
