"""Functions that wait for a condition and for a server."""

import time
from collections.abc import Callable
from typing import TypeVar

import httpx

Seen = TypeVar("Seen")


def until(look: Callable[[], Seen | None], *, seconds: float = 240, every: float = 0.05) -> Seen:
    """Wait until `look` returns a true value, and return the value."""
    give_up = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > give_up:
            raise TimeoutError(f"the condition was not met within {seconds} s: {seen}")
        time.sleep(every)
    return seen


def responds(url: str, status: int = 200) -> bool:
    """Return whether a server responds to a GET request with this status."""
    try:
        return httpx.get(url).status_code == status
    except httpx.TransportError:
        return False
