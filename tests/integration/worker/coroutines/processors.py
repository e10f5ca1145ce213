"""A processor that is a coroutine and returns immediately."""

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry

NAME = "drain.coroutine"


def register(registry: Registry, settings: Settings) -> None:
    """Register the processor."""

    @registry.processor(NAME, payload=dict)
    async def run(job: Job[dict[str, bool]], ctx: JobContext) -> None:
        """Do nothing."""
