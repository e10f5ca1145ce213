"""Processors that do next to nothing, to measure what surrounds them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from pydantic import BaseModel

from minutehand.worker import Backoff, Job, JobContext, Registry


class Nothing(BaseModel):
    """A payload without content."""


class Pause(BaseModel):
    """How long to wait, as for a foreign service."""

    seconds: float = 1.0


def bench_registry() -> Registry:
    """The job types of the benchmarks."""
    registry = Registry()

    @registry.processor("bench_noop", payload=Nothing, events="minimal")
    async def noop(job: Job[Nothing], ctx: JobContext) -> None:
        return None

    @registry.processor("bench_stamp", payload=Nothing)
    async def stamp(job: Job[Nothing], ctx: JobContext) -> dict[str, float]:
        return {"started": time.time()}

    @registry.processor("bench_pause", payload=Pause, backoff=Backoff(first=1, cap=1))
    async def pause(job: Job[Pause], ctx: JobContext) -> dict[str, Any]:
        await asyncio.sleep(job.payload.seconds)
        return {"attempt": job.attempt}

    return registry
