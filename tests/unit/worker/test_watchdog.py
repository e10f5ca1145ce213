"""What the watchdog says and does at each look; its waits are in the test's hand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from minutehand.queue.errors import QueueUnavailable
from minutehand.worker import watchdog
from minutehand.worker.isolation import TaskGroupOfAttempt, belonging_to, contained
from minutehand.worker.watchdog import Watchdog, resident_mb

#: A sixteenth of a second between two looks, and a warning at the fourth that finds no beat.
WARN_AFTER = 0.125


class Looks:
    """The thread's waits: `-` finds the loop as it was, `b` finds that it has turned."""

    def __init__(self, script: str, beat: Callable[[], None]) -> None:
        self._left = list(script)
        self._beat = beat

    def wait(self, seconds: float) -> bool:
        assert seconds == 0.0625
        if not self._left:
            return True
        if self._left.pop(0) == "b":
            self._beat()
        return False


async def watch(script: str, group: TaskGroupOfAttempt | None = None, **options: Any) -> Watchdog:
    """Look so often, while a task of `group` has the loop."""
    loop = asyncio.get_running_loop()
    dog = Watchdog(loop, warn_after=WARN_AFTER, **options)

    def turn() -> None:
        dog._beats += 1

    async def block() -> None:
        dog._stop = Looks(f"b{script}", turn)  # type: ignore[assignment]
        dog._watch()

    with contained(loop), belonging_to(group or TaskGroupOfAttempt("j", "t")):
        await asyncio.create_task(block())
    return dog


def events_of(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if hasattr(record, "event")]


async def test_who_blocks_the_loop_is_named_once_and_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And its attempt knows for how long at the longest look, since no timer could stop it."""
    group = TaskGroupOfAttempt("job-1", "report")

    await watch("---b----------bb-b-----", group)

    said = [(each.event, each.blocked_seconds, each.job_type) for each in events_of(caplog)]
    assert said == [
        ("loop.blocked", 0.125, "report"),
        ("loop.released", 0.62, "report"),
        ("loop.blocked", 0.125, "report"),
    ]
    assert events_of(caplog)[0].job_id == "job-1"
    assert any("test_watchdog" in line for line in events_of(caplog)[0].at)
    assert len(events_of(caplog)[0].at) == 6
    assert group.blocked is not None
    assert group.blocked.seconds == 0.3125
    assert group.blocked.at.startswith("tests/unit/worker/test_watchdog.py:")


async def test_a_short_halt_is_not_charged_to_who_blocked_before() -> None:
    group = TaskGroupOfAttempt("j", "t")

    await watch("-----b--b", group)

    assert group.blocked is not None
    assert group.blocked.seconds == 0.3125


async def test_a_loop_that_turns_in_time_is_not_complained_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    group = TaskGroupOfAttempt("j", "t")

    await watch("---b---b---b", group, renew_after=0.25, renew=lambda: pytest.fail("renewed"))

    assert (events_of(caplog), group.blocked) == ([], None)


@pytest.mark.parametrize("trouble", [OSError("away"), QueueUnavailable("away")])
async def test_a_loop_that_is_blocked_has_its_leases_renewed_again_and_again(
    caplog: pytest.LogCaptureFixture, trouble: Exception
) -> None:
    """Also after a renewal that failed, and from the start each time it is blocked."""
    renewals: list[int] = []

    def renew() -> None:
        renewals.append(1)
        if len(renewals) == 1:
            raise trouble

    await watch("-" * 25 + "b" + "-" * 7 + "b" + "-" * 8, renew=renew, renew_after=0.5)

    assert len(renewals) == 4
    [failed] = [each for each in events_of(caplog) if each.event == "loop.renewal_failed"]
    assert failed.levelno == logging.ERROR


async def test_memory_is_worth_a_line_at_each_step_of_its_growth(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names those who run, as many as a line can hold."""
    sizes = iter([100.0, 199.0, 200.0, 299.0, 305.0, 305.0])
    monkeypatch.setattr(watchdog, "resident_mb", lambda: next(sizes))

    await watch("bbbb", running=lambda: [("j", "hoarder")] * 30)

    grew = events_of(caplog)
    assert [(each.event, each.grown_mb, each.resident_mb) for each in grew] == [
        ("memory.grew", 100, 200), ("memory.grew", 105, 305)
    ]  # fmt: skip
    assert grew[0].jobs == [{"job_id": "j", "job_type": "hoarder"}] * 20


async def test_a_watch_begins_once_and_ends_whole() -> None:
    """A tick leaves neither a thread nor a timer behind."""
    dog = Watchdog(asyncio.get_running_loop(), warn_after=0.04)
    dog.start()
    thread, timer = dog._thread, dog._timer
    dog.start()
    assert (dog._thread, dog._timer) == (thread, timer)
    assert thread is not None
    assert thread.daemon

    dog.stop()
    await asyncio.to_thread(thread.join, 60)

    assert not thread.is_alive()
    assert timer is not None
    assert timer.cancelled()


def test_the_memory_of_this_process_is_read() -> None:
    real = psutil.Process().memory_info().rss / 1_048_576

    assert resident_mb() == pytest.approx(real, rel=0.1)


def test_where_no_file_says_so_memory_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off Linux: no line about it then."""

    def missing(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    read = resident_mb()
    monkeypatch.undo()

    assert read == 0
