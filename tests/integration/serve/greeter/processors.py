"""Job types that greet, take time, block their worker's process or end it."""

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
    """Return a greeting with the name."""
    return {"greeting": f"Hello, {job.payload.name}!"}


@processor("served.slow", payload=Slow, timeout=60)
async def slow(job: Job[Slow], ctx: JobContext) -> dict[str, bool]:
    """Run for the requested number of seconds."""
    ctx.progress(1, "begun")
    await asyncio.sleep(job.payload.seconds)
    return {"slept": True}


@processor("served.stubborn", payload=Slow, timeout=60, lease=600)
async def stubborn(job: Job[Slow], ctx: JobContext) -> None:
    """End the process when the job is stopped, as the clean-up of a C extension may."""
    ctx.progress(1, "begun")
    try:
        await asyncio.sleep(job.payload.seconds)
    finally:
        os._exit(9)


@processor("served.block", payload=dict, lease=16, max_attempts=1)
async def block(job: Job[dict[str, str]], ctx: JobContext) -> None:
    """Block Python's GIL in C code without using CPU, as an endless regular expression would."""
    ctypes.PyDLL(None).read(os.pipe()[0], ctypes.create_string_buffer(1), 1)


@processor("served.plain", payload=Slow, timeout=60)
def plain(job: Job[Slow], ctx: JobContext) -> dict[str, bool]:
    """Run for the requested number of seconds in a thread."""
    time.sleep(job.payload.seconds)
    return {"slept": True}


class Leave(BaseModel):
    """The duration of the job, and whether the job then ends its process."""

    seconds: float = 0
    ends_process: bool = True
    code: int = 7


@processor("served.exit", payload=Leave, backoff=Backoff(first=1, cap=1), max_attempts=2)
async def leave(job: Job[Leave], ctx: JobContext) -> None:
    """End the process without a message, as a C extension may."""
    await asyncio.sleep(job.payload.seconds)
    if job.payload.ends_process:
        os._exit(job.payload.code)


@processor("served.plain_exit", payload=Leave, backoff=Backoff(first=1, cap=1), max_attempts=2)
def leave_in_a_thread(job: Job[Leave], ctx: JobContext) -> None:
    """End the process from a thread."""
    time.sleep(job.payload.seconds)
    if job.payload.ends_process:
        os._exit(job.payload.code)


class Item(BaseModel):
    """Payload that says whether the processor of the batch hangs, or the signal that it sends."""

    how: str | None = None


@processor("served.batch", payload=Item, batch=10, batch_wait=0.2, max_attempts=1)
async def together(jobs: list[BatchedJob[Item]]) -> list[None]:
    """End or stop the process by the signal that an item names."""
    for job in jobs:
        if job.payload.how:
            os.kill(os.getpid(), signal.Signals[job.payload.how])
    return [None for _ in jobs]


@processor("served.plain_batch", payload=Item, batch=2, batch_wait=0.2, timeout=1, max_attempts=1)
def together_in_a_thread(jobs: list[BatchedJob[Item]]) -> list[None]:
    """Hang in C code, which no exception can stop, as a socket read without a timeout does."""
    if any(job.payload.how == "hangs" for job in jobs):
        time.sleep(600)
    return [None for _ in jobs]


@processor("served.talk", payload=Slow, timeout=60)
async def talk(job: Job[Slow], ctx: JobContext) -> None:
    """Stream two words, with a pause between them."""
    async with ctx.stream("words") as words:
        words.write("one ")
        await asyncio.sleep(job.payload.seconds)
        words.write("two")
