"""Job types that greet, take time, block their worker or end it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import time

from pydantic import BaseModel

from minutehand.worker import Backoff, BatchedJob, Job, JobContext, processor


class Greet(BaseModel):
    """The name to greet."""

    name: str


class Slow(BaseModel):
    """The duration of the job."""

    seconds: float


@processor("served.greet", payload=Greet)
async def greet(job: Job[Greet], ctx: JobContext) -> dict[str, str]:
    """Greet by name."""
    return {"greeting": f"Hello, {job.payload.name}!"}


@processor("served.slow", payload=Slow, timeout=60)
async def slow(job: Job[Slow], ctx: JobContext) -> dict[str, bool]:
    """Run for the requested time."""
    ctx.progress(1, "begun")
    await asyncio.sleep(job.payload.seconds)
    return {"slept": True}


class Nothing(BaseModel):
    """A payload without content."""


@processor("served.block", payload=Nothing, lease=16, max_attempts=1)
async def block(job: Job[Nothing], ctx: JobContext) -> None:
    """Keep Python's lock inside C code, as a hopeless regular expression does, but at rest."""
    ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)


@processor("served.plain", payload=Slow, timeout=60)
def plain(job: Job[Slow], ctx: JobContext) -> dict[str, bool]:
    """Run for the requested time in a thread."""
    time.sleep(job.payload.seconds)
    return {"slept": True}


@processor("served.exit", payload=Nothing, backoff=Backoff(first=1, cap=1), max_attempts=2)
async def leave(job: Job[Nothing], ctx: JobContext) -> None:
    """End the process without a message, as a C extension may."""
    os._exit(7)


class Item(BaseModel):
    """Whether the item makes the call of its batch fail."""

    fails: bool = False


@processor("served.batch", payload=Item, batch=10, batch_wait=0.2, timeout=1, max_attempts=1)
async def together(jobs: list[BatchedJob[Item]]) -> list[None]:
    """End the process as the kernel does when memory runs out, if an item requests it."""
    if any(job.payload.fails for job in jobs):
        os.kill(os.getpid(), signal.SIGKILL)
    return [None for _ in jobs]


@processor("served.plain_batch", payload=Item, batch=2, batch_wait=0.2, timeout=1, max_attempts=1)
def together_in_a_thread(jobs: list[BatchedJob[Item]]) -> list[None]:
    """Hang where no exception reaches it, as a read from a socket without a timeout does."""
    if any(job.payload.fails for job in jobs):
        time.sleep(600)
    return [None for _ in jobs]
