"""One job type that greets, and one that takes its time."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from minutehand.worker import Job, JobContext, processor


class Greet(BaseModel):
    """Whom to greet."""

    name: str


class Slow(BaseModel):
    """How long to take."""

    seconds: float


@processor("served.greet", payload=Greet)
async def greet(job: Job[Greet], ctx: JobContext) -> dict[str, str]:
    """Greet by name."""
    return {"greeting": f"Hello, {job.payload.name}!"}


@processor("served.slow", payload=Slow, timeout=60)
async def slow(job: Job[Slow], ctx: JobContext) -> dict[str, bool]:
    """Take as long as asked."""
    ctx.progress(1, "begun")
    await asyncio.sleep(job.payload.seconds)
    return {"slept": True}
