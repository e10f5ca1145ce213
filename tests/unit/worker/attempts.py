"""Attempts that are held, without a tick around them."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from infra.bench.scratch import WORKSPACE, scratch_settings
from minutehand.clock import Clock, SystemClock
from minutehand.queue.models import Lease, LeasedJob
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker import Registry
from minutehand.worker.attempt import Attempt

CLOCK = SystemClock()
SETTINGS = scratch_settings("http://127.0.0.1:9")


def held_attempt(
    queue: WorkerQueue,
    clock: Clock = CLOCK,
    *,
    timeout_seconds: float | None = None,
    work_until: float = math.inf,
    on_end: Callable[[Attempt], None] = lambda _: None,
    run: Callable[[Any, Any], Any] | None = None,
    on_news: Callable[[], None] = lambda: None,
    had_fair_time: bool = True,
    deadline_at: datetime | None = None,
    payload: Any = None,
    leased: LeasedJob | None = None,
    fence: int = 1,
    **lease: Any,
) -> Attempt:
    """A lease of a minute, just taken: the reporter waits to renew it."""
    job = leased or LeasedJob(
        id="01a200a6-7884-7030-864b-60cc70f7392f",
        workspace_id=WORKSPACE,
        job_type="a",
        payload={} if payload is None else payload,
        created_at=CLOCK.now(),
        timeout_seconds=timeout_seconds,
        deadline_at=deadline_at,
    )
    registry = Registry()
    if run is not None:
        registry.processor("a", payload=dict)(run)
    return Attempt(
        Lease(job=job, fence=fence, **lease),
        registry.find("a"),
        clock=clock,
        sent_at=clock.monotonic(),
        work_until=work_until,
        had_fair_time=had_fair_time,
        queue=queue,
        on_news=on_news,
        on_end=on_end,
    )
