"""A processor that is a plain function. It returns immediately, or when the test allows it."""

import threading

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry

NAME = "drain.function"
#: The test sets this event when blocked jobs may return.
GATE = threading.Event()


def register(registry: Registry, settings: Settings) -> None:
    """Register the processor."""

    @registry.processor(NAME, payload=dict)
    def run(job: Job[dict[str, bool]], ctx: JobContext) -> None:
        """Wait if the payload requests it."""
        if job.payload.get("waits"):
            GATE.wait()
