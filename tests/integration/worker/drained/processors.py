"""A processor that is a coroutine, and one that is a plain function. Both return immediately."""

from typing import Any

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry

COROUTINE, FUNCTION = "drain.coroutine", "drain.function"


def register(registry: Registry, settings: Settings) -> None:
    """Register the processors."""

    @registry.processor(COROUTINE, payload=dict)
    async def run(job: Job[Any], ctx: JobContext) -> None:
        """Do nothing."""

    @registry.processor(FUNCTION, payload=dict)
    def run_in_thread(job: Job[Any], ctx: JobContext) -> None:
        """Do nothing."""
