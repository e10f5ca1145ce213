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

from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.wire import Wire
from tests.integration.stack.test_dying import children
from tests.support.stacks import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DRIVER = Path(__file__).parent / "js" / "words.mjs"
ALPHABET = "abc äöü€ 🌍\n"
JOBS = 3


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker that the test controls."""
    with HandWorker(stack, stack.demo_workspace_id) as hand:
        yield hand


class Readers:
    """A Node process with readers, and its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls,
        stack: RunningStack,
        url: str,
        jobs: list[str],
        start: int | None = None,
        *,
        session_id: str | None = None,
    ) -> Readers:
        """Start the readers as a guest or as Ada. The pieces begin at an offset."""
        request = {
            "url": url,
            "key": stack.supabase_publishable_key,
            "email": ADA.email,
            "password": stack.demo_password,
            "session_id": session_id,
            "jobs": jobs,
            "from": start or 0,
        }
        process = await asyncio.create_subprocess_exec(
            str(node_binary()),
            str(DRIVER),
            json.dumps(request),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        return cls(process)

    async def says(self, word: str) -> Any:
        """Wait for an output line with this key."""
        assert self._process.stdout is not None
        async with asyncio.timeout(200):
            while line := await self._process.stdout.readline():
                said = json.loads(line)
                if word in said:
                    return said[word]
        raise AssertionError(f"the readers ended without {word!r}")

    async def renew(self) -> int:
        """Renew the tokens of all sessions and return their number."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"renew\n")
        return int(await self.says("renewed"))

    async def close(self) -> None:
        """End the process if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


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
        while True:  # repeat like a worker. The offset shows what an unanswered report stored.
            try:
                said = [{**piece, "text": words}]
                outcome = self._worker.report(self._lease, None, "a line", output=said)
            except httpx.TransportError:
                continue
            assert outcome == "ok"
            return

    def end(self) -> None:
        """Complete the job. Its last output comes with the end."""
        start = {"stream": "reply", "attempt": self._attempt, "start": len(self.text)}
        self.text += " the end"
        self._worker.settle(self._lease, result={}, output=[{**start, "text": " the end"}])


def events_of(stack: RunningStack, jobs: list[str]) -> dict[str, list[int]]:
    """Return the sequence numbers of the jobs' events in the database."""
    with stack.connect() as connection:
        rows = connection.execute(
            "select job_id::text, array_agg(seq order by seq) from public.job_events"
            " where job_id = any(%s::uuid[]) group by job_id",
            [jobs],
        )
        return dict(rows.fetchall())


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


#: Troubles of the reader's own network and tab, which do not affect later readers.
OWN = {"lossy", "cut", "renewed"}


# test_session.py has the troubles of the socket
@pytest.mark.parametrize("trouble", ["none", "lossy", "cut", "no budget", "renewed", "gateway"])
async def test_every_reader_has_every_event_and_character(
    stack: RunningStack, worker: HandWorker, trouble: str
) -> None:
    """Each arrives once and in order despite any trouble. A dead attempt's output is discarded."""
    chance = random.Random(85)
    jobs = await asyncio.to_thread(worker.enqueue_many, [{}] * JOBS)
    leases = await asyncio.to_thread(worker.lease, JOBS)
    speakers = [Speaker(worker, lease, chance) for lease in leases]
    port = int(stack.supabase_url.rsplit(":", 1)[1])

    def speak(times: int) -> None:
        for _ in range(times):
            for speaker in speakers:
                speaker.say()

    async with Wire(port, seed=7) as wire:
        for speaker in speakers:
            await asyncio.to_thread(speaker.begin)
        await asyncio.to_thread(speak, 5)
        readers = await Readers.start(stack, wire.url, jobs)
        late = None
        try:
            assert await readers.says("live")
            with broken(stack, wire, trouble):
                speaking = asyncio.create_task(asyncio.to_thread(speak, 20))
                if trouble == "renewed":
                    assert await readers.renew() == 2
                await speaking
                await asyncio.to_thread(speakers[0].begin)
            await asyncio.to_thread(speak, 20)
            if trouble not in OWN:
                late = await Readers.start(stack, wire.url, jobs, 7)  # starts like after a reload
            await asyncio.to_thread(speak, 5)
            for speaker in speakers:
                await asyncio.to_thread(speaker.end)
            read = await readers.says("read")
            read_late = [] if late is None else await late.says("read")
        finally:
            await readers.close()
            if late is not None:
                await late.close()

    said = {speaker.job_id: speaker.text for speaker in speakers}
    assert trouble != "lossy" or wire.dropped > 0
    assert [one for one in read if one["text"] != said[one["job"]]] == []
    events = await asyncio.to_thread(events_of, stack, jobs)
    watched = [one for one in read + read_late if one["by"] == "watch"]
    assert [one for one in watched if one["seqs"] != events[one["job"]]] == []
    for one in read_late:
        assert one["text"] == said[one["job"]][7 if one["by"] == "pieces" else 0 :]
    expected = 3 * JOBS * (1 if late is None else 2)
    assert [one["status"] for one in read + read_late] == ["completed"] * expected


async def test_a_guest_has_every_character_of_their_session(
    stack: RunningStack, worker: HandWorker
) -> None:
    """The session's id is enough over a lossy network, and shows no job of another session."""
    with stack.connect() as connection:
        made = connection.execute(
            "select public.open_guest_session(%s) ->> 'session_id' from generate_series(1, 2)",
            (worker.workspace_id,),
        ).fetchall()
    [session], [other] = made
    jobs = await asyncio.to_thread(
        worker.enqueue_many, [{"session_id": session}, {"session_id": other}]
    )
    leases = await asyncio.to_thread(worker.lease, 2)
    chance = random.Random(86)
    shown, hidden = sorted(
        (Speaker(worker, lease, chance) for lease in leases), key=lambda one: jobs.index(one.job_id)
    )
    port = int(stack.supabase_url.rsplit(":", 1)[1])

    def speak(times: int) -> None:
        for _ in range(times):
            shown.say()

    async with Wire(port, seed=8) as wire:
        await asyncio.to_thread(shown.begin)
        readers = await Readers.start(stack, wire.url, [shown.job_id], session_id=session)
        try:
            assert await readers.says("live")
            wire.drop = 0.3
            await asyncio.to_thread(speak, 20)
            await asyncio.to_thread(shown.begin)
            wire.drop = 0
            await asyncio.to_thread(speak, 20)
            await asyncio.to_thread(shown.end)
            read = await readers.says("read")
        finally:
            await readers.close()
        strangers = await Readers.start(stack, wire.url, [hidden.job_id], session_id=session)
        try:
            with pytest.raises(AssertionError):
                await strangers.says("read")
        finally:
            await strangers.close()
    assert [(one["text"], one["status"]) for one in read] == [(shown.text, "completed")] * 3
