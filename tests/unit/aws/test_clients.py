"""boto3's clients are made once, also when many threads ask at the same moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from minutehand.aws.clients import client
from minutehand.config import Settings


def test_threads_that_ask_first_get_the_same_client(settings: Settings) -> None:
    """Making one is not safe between threads, and a second one is a second pool of connections."""
    gate = threading.Barrier(8)

    def ask(_: int) -> Any:
        gate.wait()
        return client(settings, "kms", read_timeout=4.25)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))

    assert len({id(one) for one in found}) == 1
