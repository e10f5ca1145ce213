"""Extra workers for a long queue. A worker run starts them by invoking its own Lambda function."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Final

from minutehand.aws.sigv4 import invoke
from minutehand.config import Settings

logger = logging.getLogger(__name__)

#: `source` in the event that starts an extra worker. An extra worker starts no other workers.
EXTRA_WORKER_SOURCE: Final = "minutehand.extra_worker"


async def start_extra_workers(settings: Settings, count: int) -> int:
    """Invoke the worker's function `count` times, and return how many invocations were accepted.

    A response of Lambda with status 429 is not an error, because the next worker run starts the
    other workers.
    """
    if not settings.worker_function_name:
        return 0
    call = partial(invoke, settings, {"source": EXTRA_WORKER_SOURCE}, read_seconds=2.0)
    invocations = (asyncio.to_thread(call) for _ in range(count))
    results = await asyncio.gather(*invocations, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        logger.warning(
            "Extra workers could not be started",
            extra={
                "event": "fanout.refused",
                "refused": len(errors),
                "reason": f"{type(errors[0]).__name__}: {errors[0]}",
            },
        )
    return count - len(errors)
