"""Events and output from the database to their readers over an unreliable network."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.console.worker import HandWorker
from tests.e2e.live.test_session import libraries, pages_of, worker
from tests.e2e.live.wire import Wire
from tests.integration.stack.test_dying import children
from tests.support.stacks import RunningStack

__all__ = ["libraries", "worker"]

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

ALPHABET = "abc äöü€ 🌍\n"


class Speaker:
    """Writer of a job's stream, which reports pieces as a worker does."""

    def __init__(self, worker: HandWorker, lease: dict[str, Any], chance: random.Random) -> None:
        self.job_id = str(lease["job"]["id"])
        self.text = ""
        self._worker, self._lease, self._chance = worker, lease, chance
        self._attempt = 0

    def begin(self) -> None:
        """Begin the stream, or begin it again, which discards its content."""
        self._attempt += 1
        self.text = ""
        self._report("")

    def say(self) -> None:
        """Append a short text, and now and then more than fits in a message."""
        size = 9000 if self._chance.random() < 0.05 else self._chance.randint(1, 12)
        words = "".join(self._chance.choices(ALPHABET, k=size))
        self._report(words)
        self.text += words

    def _report(self, words: str) -> None:
        piece = {"stream": "reply", "attempt": self._attempt, "start": len(self.text)}
        while True:  # repeat as a worker does. The offset shows what an unanswered report stored.
            try:
                response = [{**piece, "text": words}]
                outcome = self._worker.report(self._lease, None, "a line", output=response)
            except httpx.TransportError:
                continue
            assert outcome == "ok"
            return

    def end(self) -> None:
        """Complete the job. Its last output comes with the end."""
        start = {"stream": "reply", "attempt": self._attempt, "start": len(self.text)}
        self.text += " the end"
        self._worker.settle(self._lease, result={}, output=[{**start, "text": " the end"}])


def events_of(stack: RunningStack, job: str) -> list[int]:
    """Return the sequence numbers of a job's events in the database."""
    with stack.connect() as connection:
        rows = connection.execute(
            "select seq from public.job_events where job_id = %s order by seq", [job]
        )
        return [seq for (seq,) in rows.fetchall()]


@contextmanager
def budget_of(stack: RunningStack, messages: int) -> Iterator[None]:
    """Limit the plan's messages per second."""
    name = "realtime_messages_per_second"
    with stack.connect() as connection:

        def give(value: Any) -> None:
            settings = json.dumps({name: value})
            connection.execute("select public.set_settings(%s)", (settings,))

        found = connection.execute("select value from queue.settings where name = %s", (name,))
        [before] = found.fetchone() or [None]
        give(messages)
        try:
            yield
        finally:
            give(before)


@contextmanager
def broken(stack: RunningStack, wire: Wire, trouble: str) -> Iterator[None]:
    """Disturb Realtime, its budget or the network for a while."""
    wire.drop = 0.3 if trouble == "lossy" else 0
    wire.closed = trouble == "cut"
    if trouble == "cut":
        assert wire.cut() > 0
    if trouble == "no budget":
        with budget_of(stack, 1):
            yield
    elif trouble == "gateway":
        before = children(stack.launcher)["gateway"]
        before.kill()
        yield  # reports wait until the launcher has restarted the gateway
        assert children(stack.launcher)["gateway"] != before
    else:
        yield
    wire.drop, wire.closed = 0, False


# test_session.py has the troubles of the socket
@pytest.mark.parametrize("trouble", ["lossy", "cut", "no budget", "gateway"])
async def test_every_reader_has_every_event_and_character(
    stack: RunningStack, worker: HandWorker, libraries: list[Path], trouble: str
) -> None:
    """Each event and character arrives once and in order. A dead attempt's output is discarded."""
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
        await asyncio.to_thread(speak, 20)
        await asyncio.to_thread(speaker.end)

        await pages.end_with(await asyncio.to_thread(events_of, stack, speaker.job_id))
        assert [await page.last("words") for page in pages.pages] == [{"reply": speaker.text}] * 2
        assert [await page.last("read") for page in pages.pages] == [speaker.text] * 2
        assert trouble != "lossy" or wire.dropped > 0
