"""A worker run starts extra workers for a long queue by invoking its own Lambda function."""

import asyncio
import logging
from functools import partial

from minutehand.aws.sigv4 import invoke
from minutehand.config import Settings

logger = logging.getLogger(__name__)

#: Value of `source` in the event that invokes an extra worker. An extra worker starts no workers.
EXTRA_WORKER_SOURCE = "minutehand.extra_worker"


async def start_extra_workers(settings: Settings, count: int) -> int:
    """Invoke the worker's function `count` times, and return how many invocations Lambda accepted.

    A rejected invocation, for example with status 429, is only logged, because the next worker run
    starts the missing workers.
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
