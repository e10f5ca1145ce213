"""Events and output of a job, read by several clients over an unreliable network."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import pytest

from tests.e2e.console.worker import HandWorker
from tests.e2e.live.test_session import libraries, pages_of, worker
from tests.e2e.live.wire import Wire
from tests.integration.stack.test_dying import children
from tests.support.engine import piece
from tests.support.patience import until
from tests.support.stacks import RunningStack

__all__ = ["libraries", "worker"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

ALPHABET = "abc äöü€ 🌍\n"


class Speaker:
    """Writes a job's output stream as a worker does."""

    def __init__(self, worker: HandWorker, lease: dict[str, Any], chance: random.Random) -> None:
        self.text = ""
        self._worker, self._lease, self._chance = worker, lease, chance
        self._attempt = 0

    def begin(self) -> None:
        """Begin the output stream, or begin it again without its content."""
        self._attempt += 1
        self.text = ""
        self._report("")

    def say(self) -> None:
        """Append a short text, and sometimes one that is too long for a message."""
        size = 9000 if self._chance.random() < 0.05 else self._chance.randint(1, 12)
        words = "".join(self._chance.choices(ALPHABET, k=size))
        self._report(words)
        self.text += words

    def _report(self, words: str) -> None:
        said = [piece(words, len(self.text), attempt=self._attempt)]
        assert self._worker.report(self._lease, None, "a line", output=said) == "ok"

    def end(self) -> None:
        """Complete the job. Its settlement contains the last output."""
        said = [piece(" the end", len(self.text), attempt=self._attempt)]
        self.text += " the end"
        self._worker.settle(self._lease, result={}, output=said)


#: For each disturbance: the freshness that a page reports during it. It is empty if a page cannot
#: notice the disturbance.
TROUBLES = {
    "cut": (),
    "no budget": (),
    "gateway": (),
    "stopped": ("polling",),
    "killed": ("polling", "catching-up", "live"),  # a page may not notice this disturbance
    "black hole": ("offline",),
}


@contextmanager
def broken(stack: RunningStack, wire: Wire, trouble: str) -> Iterator[None]:
    """Disturb Realtime, its message rate or the network for a while."""
    wire.closed, wire.is_hole = trouble == "cut", trouble == "black hole"
    if trouble == "black hole":
        wire.fall_silent()
    if trouble == "cut":
        assert wire.cut() > 0
    parts = children(stack.launcher)
    name = "realtime_messages_per_second"
    give = f"select public.set_settings(jsonb_build_object('{name}', %s::jsonb))"
    with stack.connect() as connection:
        if trouble == "no budget":
            connection.execute(give, ("1",))
        if trouble in {"stopped", "killed"}:
            parts["realtime"].send_signal(SIGSTOP if trouble == "stopped" else SIGKILL)
        if trouble == "gateway":
            parts["gateway"].kill()
        try:
            yield
        finally:
            connection.execute(give, ('"pro"',))
            if trouble == "stopped":
                parts["realtime"].send_signal(SIGCONT)
    if trouble == "gateway":
        until(lambda: children(stack.launcher).get(trouble, parts[trouble]) != parts[trouble])
    wire.closed = wire.is_hole = False


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_every_reader_has_every_event_and_character(
    stack: RunningStack, worker: HandWorker, libraries: list[Path], trouble: str
) -> None:
    """Each reader gets each event and character once and in order.

    This holds while Realtime stops, dies or delivers nothing. Output of a dead attempt is
    discarded.
    """
    async with pages_of(stack, worker, libraries) as (pages, wire, lease):
        speaker = Speaker(worker, lease, random.Random(85))

        def speak(times: int) -> None:
            for _ in range(times):
                speaker.say()

        await asyncio.to_thread(speaker.begin)
        await asyncio.to_thread(speak, 5)
        with broken(stack, wire, trouble):
            await asyncio.to_thread(speak, 20)
            await asyncio.to_thread(speaker.begin)
            if TROUBLES[trouble]:
                await pages.are(*TROUBLES[trouble])
        if TROUBLES[trouble]:
            await pages.are("live")
        await asyncio.to_thread(speak, 20)
        await asyncio.to_thread(speaker.end)

        written = "select seq from public.job_events where job_id = %s order by seq"
        await pages.end_with(worker.engine.rows(written, lease["job"]["id"]))
        assert [await page.last("words") for page in pages.pages] == [{"reply": speaker.text}] * 2
        assert [await page.last("read") for page in pages.pages] == [speaker.text] * 2
