"""When a supervised worker hangs, and which of its jobs is to blame; `serve` has real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.functions.worker.child import CHANNEL
from minutehand.functions.worker.routes import Request
from minutehand.functions.worker.supervisor import (
    MARGIN_SECONDS,
    SILENT_SECONDS,
    Began,
    Supervisor,
    _culprit,
)
from minutehand.queue.models import SettleItem


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


#: Takes one command and dies with an attempt; started again, it takes another.
DYING = f"""
import json, os, sys
from pathlib import Path

def say(**event):
    os.write(int(os.environ["{CHANNEL}"]), json.dumps(event).encode() + b"\\n")

taken = Path(os.environ["TAKEN"])
is_first = not taken.exists()
say(ready=True)
line = sys.stdin.readline()
taken.open("a").write(line)
if is_first:
    say(began={{
        "job_id": "j", "fence": 1, "job_type": "t", "timeout_seconds": None, "grace_seconds": 5,
        "module": "app", "file": "app.py", "function": "work",
    }})
    os._exit(1)
sys.stdin.readline()
"""


async def test_a_worker_that_dies_leaves_neither_a_request_nor_a_job_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is asked to come back, and the next worker leases what was given back."""
    (tmp_path / "dying.py").write_text(DYING)
    taken = tmp_path / "taken"
    settled: list[SettleItem] = []

    async def settle(_: Supervisor, items: list[SettleItem]) -> None:
        settled.extend(items)

    monkeypatch.setattr(Supervisor, "_settle", settle)
    monkeypatch.setattr(Supervisor, "READY_SECONDS", 60)
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    environ = {"PYTHONPATH": str(tmp_path), "TAKEN": str(taken)}
    supervisor = Supervisor(settings, "dying", environ)
    supervisor.start()

    async with asyncio.timeout(60):
        reply = await supervisor.answer(Request("GET", "/", {}, b"", None))
        while len(taken.read_text().splitlines()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await supervisor.aclose(timeout_seconds=60)

    assert reply.status == 503
    assert [(item.job_id, item.outcome) for item in settled] == [("j", "retry")]
    assert '"wake": "restart"' in taken.read_text().splitlines()[1]


async def test_a_crash_is_charged_to_the_job_that_it_happened_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran beside it is given back, without an attempt."""
    settled: list[SettleItem] = []

    async def settle(_: Supervisor, items: list[SettleItem]) -> None:
        settled.extend(items)

    monkeypatch.setattr(Supervisor, "_settle", settle)
    stacks = tmp_path / "stacks"
    stacks.write_text('Current thread 0x1 (first):\n  File "app.py", line 7 in crashes\n')
    running = {(name, 1): began(name) for name in ("beside", "crashes")}
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    process = SimpleNamespace(returncode=-11)
    child: Any = SimpleNamespace(process=process, stacks=stacks, running=running, resident_mb=0)

    await Supervisor(settings, "app", {})._bury(child)

    assert {item.job_id: item.outcome for item in settled} == {
        "crashes": "retry", "beside": "released"
    }  # fmt: skip
    assert len(settled) == 2
