"""The processor: it waits for a file."""

import asyncio
import os

from pydantic import BaseModel

from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry


class Nothing(BaseModel):
    """No payload."""


async def hold(job: Job[Nothing], ctx: JobContext) -> None:
    """Run until the file is there."""
    gate = os.environ["SLOW_APP_GATE"]
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240 - the gate is a file
        await asyncio.sleep(0.05)


def register(registry: Registry, settings: Settings) -> None:
    """Add the type."""
    registry.processor("hold", payload=Nothing, timeout=120)(hold)
