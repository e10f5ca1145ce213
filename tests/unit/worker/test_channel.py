"""What a worker's process says to its supervisor, and that it is understood there."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.functions.worker.supervisor import Began, Supervisor
from minutehand.worker.channel import Channel


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The supervisor's end and the worker's."""
    ours, its = os.pipe()
    yield ours, its
    for descriptor in (ours, its):
        try:
            os.close(descriptor)
        except OSError:  # closed by the test
            continue


async def understood(ours: int, child: Any) -> None:
    """Have a supervisor read what was said so far."""
    child.channel = asyncio.StreamReader()
    child.channel.feed_data(os.read(ours, 1 << 16))
    child.channel.feed_eof()
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    clock = FrozenClock()
    clock.advance(seconds=7)
    await Supervisor(settings, "app", {}, clock=clock)._read(child)


def work(job: object, ctx: object) -> None:
    """What an attempt runs."""


def attempt(fence: int) -> Any:
    return SimpleNamespace(
        job_id="j", fence=fence, job_type="t", timeout_seconds=9.0, grace_seconds=2.0,
        kind=SimpleNamespace(run=work),
    )  # fmt: skip


async def test_an_attempt_runs_from_its_beginning_to_its_end(pipe: tuple[int, int]) -> None:
    """Two attempts at one job may overlap for a moment: each has its fence."""
    ours, its = pipe
    child = SimpleNamespace(running={}, beat_at=0.0, resident_mb=0)
    worker = Channel(its)

    worker.began(attempt(1))
    worker.began(attempt(2))
    worker.ended(attempt(1))
    await understood(ours, child)

    assert child.running == {
        ("j", 2): Began(
            job_id="j", fence=2, job_type="t", timeout_seconds=9.0, grace_seconds=2.0,
            module=__name__, file=__file__, function="work", at=7.0,
        )
    }  # fmt: skip


class SpeaksOnce(Channel):
    """Its thread outlives the pipe, whose number another file may have by then."""

    said = False

    def say(self, **message: Any) -> None:
        if self.said:
            threading.Event().wait()
        self.said = True
        super().say(**message)


async def test_a_beat_says_how_much_memory_is_in_use(pipe: tuple[int, int]) -> None:
    ours, its = pipe
    child = SimpleNamespace(running={}, beat_at=0.0, resident_mb=0)

    SpeaksOnce(its).beat()
    await understood(ours, child)

    assert child.beat_at == 7.0
    assert child.resident_mb > 0


def test_a_message_is_written_whole_however_little_the_pipe_takes(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, its = pipe
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:5]))

    Channel(its).say(ready=True, number=3)

    assert os.read(ours, 100) == b'{"ready":true,"number":3}\n'


def test_a_worker_without_supervisor_does_not_fail(pipe: tuple[int, int]) -> None:
    """The end of its input ends it, in good order."""
    ours, its = pipe
    os.close(ours)

    Channel(its).say(ready=True)


async def test_a_decorated_processor_is_where_it_was_written(pipe: tuple[int, int]) -> None:
    """There its stack is, not in what wraps it."""
    ours, its = pipe
    child = SimpleNamespace(running={}, beat_at=0.0, resident_mb=0)
    wrapped = attempt(1)
    wrapped.kind = SimpleNamespace(run=functools.wraps(work)(lambda *given: work(*given)))

    Channel(its).began(wrapped)
    await understood(ours, child)

    assert child.running["j", 1].function == "work"


async def test_a_processor_without_code_of_its_own_has_no_place(pipe: tuple[int, int]) -> None:
    """One that is an object, or of a type that no version knows any more."""
    ours, its = pipe
    for kind in (None, SimpleNamespace(run=functools.partial(work, 1))):
        child = SimpleNamespace(running={}, beat_at=0.0, resident_mb=0)
        unknown = attempt(1)
        unknown.kind = kind
        Channel(its).began(unknown)
        await understood(ours, child)

        [began] = child.running.values()
        assert (began.file, began.function) == ("", "")
        assert kind or began.module == ""


def test_what_json_cannot_hold_is_said_as_text(pipe: tuple[int, int]) -> None:
    ours, its = pipe

    Channel(its).say(at=Path("a"))

    assert os.read(ours, 100) == b'{"at":"a"}\n'
