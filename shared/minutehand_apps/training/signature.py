"""Whether the video host's signature over a webhook is valid and recent.

What an event means is the route's; that it is taken once and wakes a waiting job, SQL's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import Final

#: An older signature may be a repeat by someone who listened.
TOLERANCE_SECONDS: Final = 300.0
#: Seconds since 1970; more digits than that are not an instant, nor a float.
_INSTANT: Final = re.compile(r"[0-9]{1,12}")


def is_signed(
    body: bytes, header: str, secret: str, *, clock: Callable[[], float] = time.time
) -> bool:
    """Whether a header `t=…,v1=…` signs these bytes in these five minutes; in constant time.

    Several `v1` are a secret that is being rotated: one that matches is enough.

    References:
        https://www.mux.com/docs/core/verify-webhook-signatures, https://docs.stripe.com/webhooks
    """
    fields = [part.strip().partition("=") for part in header.split(",")]
    at = next((value for name, _, value in fields if name == "t"), "")
    if not _INSTANT.fullmatch(at) or abs(clock() - int(at)) > TOLERANCE_SECONDS:
        return False
    wanted = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    matches = False
    for name, _, value in fields:
        if name == "v1":
            matches |= hmac.compare_digest(value.encode(), wanted.encode())
    return matches
