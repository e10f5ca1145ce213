"""Job types that go wrong. The line at fault ends with the type's name as a comment."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
from pydantic import BaseModel

from minutehand.queue.models import NewJob
from minutehand.worker import Backoff, Job, JobContext, processor

LATER = Backoff(first=600, cap=600)


class Given(BaseModel):
    """Nothing."""


class Strict(BaseModel):
    """A payload with a field that must be there."""

    month: str


async def total() -> int:
    """Look up what is not there."""
    prices: dict[str, int] = {}
    return prices["of October"]  # step


@processor("faulty.step", payload=Given, max_attempts=1)
async def fail_in_a_step(job: Job[Given], ctx: JobContext) -> None:
    """Fail in a step."""
    await ctx.step("add up", total)


@processor("faulty.part", payload=Given, max_attempts=1)
async def fail_as_a_part(job: Job[Given], ctx: JobContext) -> None:
    """Fail."""
    raise ValueError("invoice 7 has no customer")


@processor("faulty.whole", payload=Given, max_attempts=1)
async def fail_in_a_child(job: Job[Given], ctx: JobContext) -> None:
    """Fail because a child does."""
    ids = await ctx.spawn([NewJob(job_type="faulty.part", payload={})])
    await ctx.gather(ids)


@processor("faulty.slow", payload=Given, max_attempts=1, timeout=1)
async def never_end(job: Job[Given], ctx: JobContext) -> None:
    """Take longer than allowed."""
    await ctx.step("wait for the printer", lambda: asyncio.sleep(60))  # slow


@processor("faulty.service", payload=Given, max_attempts=5, backoff=LATER)
async def ask_a_service(job: Job[Given], ctx: JobContext) -> None:
    """Ask at a port that no one listens on: refused at once."""
    async with httpx.AsyncClient(timeout=30) as client:
        await client.get("http://127.0.0.1:9/prices")  # service


@processor("faulty.strict", payload=Strict)
async def take_a_month(job: Job[Strict], ctx: JobContext) -> None:
    """Report on a month."""


@processor("faulty.asks", payload=Given)
async def ask_a_person(job: Job[Given], ctx: JobContext) -> None:
    """Wait for an answer."""
    await ctx.ask("Which month?", ["October", "November"])


@processor("faulty.never", payload=Given, schedule="0 0 30 2 *")
async def never_come_due(job: Job[Given], ctx: JobContext) -> None:
    """Wait for the 30th of February."""


@processor("faulty.returns", payload=Given, max_attempts=1)
async def return_it(job: Job[Given], ctx: JobContext) -> str:
    """Return what cannot be stored."""
    return "x" * 400_000


@processor("faulty.die", payload=Given, max_attempts=1)
async def be_killed(job: Job[Given], ctx: JobContext) -> None:
    """End the process as the kernel does when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
