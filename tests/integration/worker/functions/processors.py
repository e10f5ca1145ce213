"""A plain function that ends immediately, or when the test allows it."""

from __future__ import annotations

import threading

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry

NAME = "drain.function"
#: Set by the test when waiting jobs may end.
GATE = threading.Event()


def register(registry: Registry, settings: Settings) -> None:
    """Add the processor."""

    @registry.processor(NAME, payload=dict)
    def run(job: Job[dict[str, bool]], ctx: JobContext) -> None:
        """Wait if the payload requests it."""
        if job.payload.get("waits"):
            GATE.wait()
