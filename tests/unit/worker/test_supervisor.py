"""When a supervised worker hangs, and which of its jobs is to blame; `serve` has real processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.functions.worker.supervisor import (
    MARGIN_SECONDS,
    SILENT_SECONDS,
    Began,
    Supervisor,
    _culprit,
)


def began(function: str = "work", *, at: float = 0.0, timeout: float | None = 10.0) -> Began:
    return Began(
        job_id=function, fence=1, job_type="t", timeout_seconds=timeout, grace_seconds=5.0,
        module="app", file="app.py", function=function, at=at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("timeout", "silent", "runs", "hangs"),
    [
        (None, SILENT_SECONDS + 1, True, True),
        (None, SILENT_SECONDS - 1, True, False),
        (None, SILENT_SECONDS + 1, False, False),  # nothing would be gained by its end
        (10.0, 15.0 + MARGIN_SECONDS - 0.1, True, False),  # within its grace
        (10.0, 15.0 + MARGIN_SECONDS + 0.1, True, True),
    ],
)
def test_a_worker_hangs_that_is_silent_or_late_with_a_job(
    timeout: float | None, silent: float, runs: bool, hangs: bool
) -> None:
    """A kill costs each of its jobs the work so far."""
    clock = FrozenClock()
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    supervisor = Supervisor(settings, "app", {}, clock=clock)
    now = clock.monotonic()
    job = began(at=now, timeout=timeout)
    child: Any = SimpleNamespace(beat_at=now, running={("work", 1): job} if runs else {})

    clock.advance(seconds=silent)

    assert supervisor._hangs(child) is hangs


def test_the_job_on_the_loops_stack_is_to_blame_before_one_in_a_thread() -> None:
    """And where none is on a stack, the one that is the longest past its time."""
    late, blocks, threaded = began("late"), began("blocks", at=5.0), began("threaded", at=5.0)
    running = [threaded, blocks, late]
    thread = [("app.py", 3, "threaded")]
    loop = [("base_events.py", 1, "run_forever"), ("app.py", 7, "blocks")]

    assert _culprit(running, [thread, loop], 20.0) == (blocks, loop)
    assert _culprit(running, [thread], 20.0) == (threaded, thread)
    assert _culprit(running, [], 20.0) == (late, [])
