"""More workers for a long queue: a tick invokes its own function again."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from minutehand.aws.sigv4 import invoke
from minutehand.config import Settings

logger = logging.getLogger(__name__)

#: Marks such an invocation; it makes none of its own.
EXTRA_WORKER_SOURCE: Final = "minutehand.extra_worker"


async def start_extra_workers(settings: Settings, count: int) -> int:
    """Invoke the worker `count` times; a 429 is normal, the next tick takes the rest."""
    if not settings.worker_function_name:
        return 0
    call = partial(invoke, settings, {"source": EXTRA_WORKER_SOURCE}, read_seconds=2.0)
    calls = (asyncio.to_thread(call) for _ in range(count))
    results = await asyncio.gather(*calls, return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    if refused:
        logger.warning(
            "Extra workers were refused",
            extra={
                "event": "fanout.refused",
                "refused": len(refused),
                "reason": f"{type(refused[0]).__name__}: {refused[0]}",
            },
        )
    return count - len(refused)
