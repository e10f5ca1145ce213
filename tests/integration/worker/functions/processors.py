"""A processor that is a plain function and returns immediately."""

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry

NAME = "drain.function"


def register(registry: Registry, settings: Settings) -> None:
    """Register the processor."""

    @registry.processor(NAME, payload=dict)
    def run(job: Job[dict[str, bool]], ctx: JobContext) -> None:
        """Do nothing."""
