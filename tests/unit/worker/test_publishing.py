"""Publishers of apps in a worker run: called in turn, never in its way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from minutehand.clock import Clock, SystemClock
from minutehand.queue.errors import QueueUnavailable
from minutehand.worker import Registry, publishing
from minutehand.worker.publishing import Publishing
from tests.support.virtual_time import LoopClock, leaping


def make(registry: Registry, published: list[int], clock: Clock | None = None) -> Publishing:
    def extra(event: str) -> dict[str, Any]:
        return {"event": event}

    clock = clock or SystemClock()
    return Publishing(registry.publishers, lambda: published.append(1), extra=extra, clock=clock)


async def test_jobs_that_were_made_are_announced() -> None:
    """So that the run leases them at once; nothing made, nothing announced."""
    counts = iter([0, 3])
    registry, published = Registry(), list[int]()

    async def publish() -> int:
        return next(counts)

    registry.publisher("app", publish)
    one = make(registry, published)
    await one.once()
    assert published == []
    await one.once()
    assert published == [1]


async def test_a_publisher_that_fails_or_hangs_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its failure is a line in the log; the others have published meanwhile."""
    monkeypatch.setattr(publishing, "PATIENCE_SECONDS", 0.05)
    registry, published = Registry(), list[int]()

    async def fail() -> int:
        raise ConnectionError("away")

    async def hang() -> int:
        await asyncio.Event().wait()
        return 9

    async def work() -> int:
        return 1

    for each in (fail, hang, work):
        registry.publisher(each.__name__, each)
    await asyncio.wait_for(make(registry, published).once(), 60)

    assert published == [1]
    said = {record.__dict__["publisher"]: record.__dict__ for record in caplog.records}
    assert set(said) == {"fail", "hang"}
    assert said["fail"]["error"] == "ConnectionError: away"
    assert said["hang"]["event"] == "publisher.failed"
    published.clear()
    registry = Registry()
    registry.publisher("fail", fail)
    await make(registry, published).once()
    assert published == []


async def test_rounds_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up during a round waits for it: two at once would claim each other's rows."""
    monkeypatch.setattr(publishing, "EVERY_SECONDS", 0.01)
    running, most = 0, 0

    async def publish() -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return 0

    registry = Registry()
    registry.publisher("app", publish)
    one = make(registry, [])
    looping = asyncio.create_task(one.run())
    await asyncio.gather(*(one.once() for _ in range(4)))
    looping.cancel()
    await asyncio.gather(looping, return_exceptions=True)

    assert most == 1


def test_a_round_follows_a_wake_up_s_after_half_a_second_at_the_least() -> None:
    """Each is a call of the database."""
    called: list[float] = []

    async def publish() -> int:
        called.append(asyncio.get_running_loop().time())
        return 0

    async def story() -> None:
        registry = Registry()
        registry.publisher("app", publish)
        one = make(registry, [], LoopClock())
        looping = asyncio.create_task(one.run())
        for pause in (1.5, 1.25):
            await asyncio.sleep(pause)
            await one.once()
        await asyncio.sleep(1.5)
        looping.cancel()

    leaping(story())

    assert called == [1, 1.5, 2, 2.75, 4]


async def test_a_database_that_is_not_ready_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As in the first seconds of a start: the log has no warning that is none."""

    async def publish() -> int:
        raise QueueUnavailable("Could not find the function", status=404, code="PGRST202")

    registry, published = Registry(), list[int]()
    registry.publisher("app", publish)
    with caplog.at_level("INFO"):
        await make(registry, published).once()

    [line] = caplog.records
    assert (line.levelname, line.__dict__["publisher"]) == ("INFO", "app")
    assert line.__dict__["event"] == "publisher.waits"
    assert published == []
