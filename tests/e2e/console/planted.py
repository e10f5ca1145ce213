"""Processors that go wrong in the ways that processors do, and a real worker that runs them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any
from uuid import uuid4

import httpx
from pydantic import BaseModel

from minutehand.config import Settings
from minutehand.queue.models import NewJob
from minutehand.worker import Backoff, Job, JobContext, RateLimit, Registry, TickOptions
from minutehand.worker.loop import Worker
from tests.support.stacks import RunningStack


class Invoice(BaseModel):
    """What the planted processors take."""

    number: int = 1


class Strict(BaseModel):
    """A payload with a field that must be there."""

    month: str


async def total(_: object) -> int:
    """Look up what is not there."""
    prices: dict[str, int] = {}
    return prices["of October"]


def planted(name: str, service: str) -> Registry:
    """Make a registry of job types that begin with `name`, one for each way to go wrong."""
    registry = Registry()
    soon = Backoff(first=0, cap=0)

    @registry.processor(f"{name}.step", payload=Invoice, max_attempts=1)
    async def fail_in_a_step(job: Job[Invoice], ctx: JobContext) -> None:
        await ctx.step("add up", lambda: total(job))

    @registry.processor(f"{name}.part", payload=Invoice, max_attempts=1)
    async def fail_as_a_part(job: Job[Invoice], ctx: JobContext) -> None:
        raise ValueError(f"invoice {job.payload.number} has no customer")

    @registry.processor(f"{name}.whole", payload=Invoice, max_attempts=1)
    async def fail_in_a_child(job: Job[Invoice], ctx: JobContext) -> None:
        ids = await ctx.spawn([NewJob(job_type=f"{name}.part", payload={"number": 7})])
        await ctx.gather(ids)

    @registry.processor(f"{name}.slow", payload=Invoice, max_attempts=1, timeout=1)
    async def never_end(job: Job[Invoice], ctx: JobContext) -> None:
        await ctx.step("wait for the printer", lambda: asyncio.sleep(60))

    @registry.processor(
        f"{name}.service", payload=Invoice, max_attempts=5, backoff=Backoff(first=600, cap=600)
    )
    async def ask_a_service(job: Job[Invoice], ctx: JobContext) -> None:
        async with httpx.AsyncClient(timeout=2) as client:
            await client.get(service)

    @registry.processor(f"{name}.strict", payload=Strict, backoff=soon)
    async def take_a_month(job: Job[Strict], ctx: JobContext) -> None:
        """Report on a month."""

    @registry.processor(f"{name}.rated", payload=Invoice, rate_limit=RateLimit(1, per=3600))
    async def run_rarely(job: Job[Invoice], ctx: JobContext) -> None:
        """Run once an hour."""

    return registry


class PlantedWorker:
    """A worker in a thread of its own, which serves the planted types of one test."""

    def __init__(self, stack: RunningStack) -> None:
        self.name = f"fault_{uuid4().hex[:6]}"
        environ = {name: str(value) for name, value in stack.values.items()}
        self._settings = Settings.from_env(environ)
        # a port that nobody listens on: refused at once
        self._registry = planted(self.name, "http://127.0.0.1:9/prices")
        self._loop = asyncio.new_event_loop()
        self._worker: Worker | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> PlantedWorker:
        self._thread.start()
        assert self._ready.wait(60), "the planted worker did not register"
        return self

    def __exit__(self, *_: Any) -> None:
        if self._worker is not None:
            self._loop.call_soon_threadsafe(self._worker.stop)
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._worker = Worker(
            self._settings,
            registry=self._registry,
            worker_id=f"planted-{self.name}",
            options=TickOptions(concurrency=5, linger_seconds=0, grace_seconds=0.3),
        )
        await self._worker.register()
        self._ready.set()
        await self._worker.run_forever(poll_seconds=0.2)
        await self._worker.aclose()
