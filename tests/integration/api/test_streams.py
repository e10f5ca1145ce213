"""Event streams over real sockets: complete, resumable, fair, and ended cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.local.users import ADA
from tests.integration.api.conftest import ACME_ID, Client, Hand, eventually
from tests.support.stacks import RunningStack


@dataclass
class Read:
    """What one connection of a stream brought."""

    status: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    last_id: str | None = None
    end: str | None = None
    comments: int = 0
    retry: int | None = None

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.events]


async def follow(
    api: httpx.AsyncClient,
    path: str,
    *,
    last_id: str | None = None,
    read: Read | None = None,
    until: int | None = None,
    params: dict[str, str] | None = None,
) -> Read:
    """Read a stream until it ends, or until `until` events have come."""
    read = read or Read()
    read.last_id = last_id
    headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
    async with api.stream("GET", path, headers=headers, params=params) as response:
        read.status = response.status_code
        if response.status_code != 200:
            await response.aread()
            return read
        assert response.headers["content-type"].startswith("text/event-stream")
        kind, given = "", None
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "retry":
                read.retry = int(value)
            elif name == "id":
                given = value
            elif not line:
                read.last_id = given or read.last_id  # as EventSource: once the event is whole
            elif name == "event":
                kind = value
            elif name == "data" and kind == "end":
                read.end = json.loads(value)["reason"]
            elif name == "data":
                read.last_id = given or read.last_id
                read.events.append(json.loads(value))
                read.ids.append(read.last_id or "")
            elif line.startswith(":"):
                read.comments += 1
            if until is not None and len(read.events) >= until:
                break
    return read


def events_path(job_id: str) -> str:
    return f"/api/jobs/{job_id}/events"


async def run_through(hand: Hand, steps: int = 5) -> None:
    """Take one job from pending to completed, with progress and logs on the way."""
    [lease] = await hand.lease()
    for step in range(1, steps + 1):
        await hand.report(lease, step * 100 / steps, f"step {step}")
    await hand.settle(lease, result={"ok": True})


async def test_a_stream_sends_a_job_from_its_first_event_to_its_end(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """Gapless from 1, in order, the same as in the database, and then it closes by itself."""
    job = await hand.enqueue()
    reading = asyncio.ensure_future(follow(ada, events_path(job.id)))
    await run_through(hand)

    read = await asyncio.wait_for(reading, 60)

    logged = (await ada.get(events_path(job.id))).json()["events"]
    assert read.seqs == list(range(1, len(logged) + 1))
    assert [e["type"] for e in read.events] == [e["type"] for e in logged]
    assert [e["data"] for e in read.events] == [e["data"] for e in logged]
    assert read.ids == [str(seq) for seq in read.seqs]
    assert read.end == "completed"
    assert read.retry is not None


async def test_a_client_that_comes_back_gets_what_it_missed(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """`Last-Event-ID` is all it needs; nothing comes twice."""
    job = await hand.enqueue()
    [lease] = await hand.lease()
    first = await follow(ada, events_path(job.id), until=2)
    await hand.report(lease, 50, "while nobody listened")
    await hand.settle(lease)

    second = await follow(ada, events_path(job.id), last_id=first.ids[-1])
    third = await follow(ada, events_path(job.id), last_id=second.ids[-1])
    first_time = await follow(ada, events_path(job.id), params={"after": str(second.seqs[-1])})

    assert first.seqs + second.seqs == list(range(1, second.seqs[-1] + 1))
    assert second.end == "completed"
    assert third.status == 204  # stops EventSource from reconnecting
    assert (first_time.status, first_time.end) == (200, "completed")


async def test_a_stream_ends_with_its_readers_token(
    hand: Hand, client: Client, stack: RunningStack
) -> None:
    """A token's life bounds what it opens; the reason tells the page to refresh it."""
    job = await hand.enqueue()
    for seconds in (3, 6, 12, 24):  # longer where the token was over before it was read
        short = client(stack.token(str(ADA.id), expires_in=seconds))
        read = await asyncio.wait_for(follow(short, events_path(job.id)), 60)
        if read.status != 401:
            break

    assert read.seqs == [1]
    assert read.end == "token_expired"


async def test_a_removed_members_stream_ends(
    hand: Hand, client: Client, stack: RunningStack
) -> None:
    """Long before the token does."""
    job = await hand.enqueue()
    user_id = str(uuid.uuid4())
    with stack.connect() as connection:
        connection.execute(
            "insert into public.workspace_members (workspace_id, user_id) values (%s, %s)",
            (ACME_ID, user_id),
        )
        leaver, read = client(stack.token(user_id)), Read()
        reading = asyncio.ensure_future(follow(leaver, events_path(job.id), read=read))

        async def began() -> bool:
            return bool(read.events)

        await eventually(began)
        connection.execute("delete from public.workspace_members where user_id = %s", (user_id,))
    await asyncio.wait_for(reading, 60)

    assert read.end == "gone"


def options(session_id: str) -> Any:
    from minutehand.queue import EnqueueOptions

    return EnqueueOptions(session_id=session_id)


@pytest.mark.parametrize("kind", ["workspace", "session"])
async def test_a_feed_cut_after_every_few_events_misses_and_repeats_nothing(
    hand: Hand, ada: httpx.AsyncClient, kind: str
) -> None:
    """Transactions commit out of order; a cursor that was a time or a number would lose some."""
    session = str(uuid.uuid4())
    path = f"/api/workspaces/{ACME_ID}/events" if kind == "workspace" else None
    first = (await hand.user.enqueue(ACME_ID, hand.job_type, {}, options=options(session))).job
    path = path or f"/api/sessions/{session}/events"
    start = (await ada.get(path)).json()["cursor"]

    async def work() -> None:
        for _ in range(4):
            await hand.user.enqueue(ACME_ID, hand.job_type, {}, options=options(session))
            for lease in await hand.lease(limit=2):
                await hand.report(lease, 50, "half")
                await hand.settle(lease)

    async def read() -> list[tuple[str, int]]:
        seen: list[tuple[str, int]] = []
        last, idle, patience = start, False, 2
        while not (idle and wanted and wanted <= set(seen)):
            got = Read()
            with contextlib.suppress(TimeoutError):
                follow_ = follow(ada, path, last_id=last, read=got, until=3)
                await asyncio.wait_for(follow_, patience)
            # one that is catching up says so between its events
            seen += [(event["job_id"], event["seq"]) for event in got.events if "seq" in event]
            last, idle = got.last_id or last, not got.events
            # a busy machine may need longer for the first event of a connection
            patience = 2 * patience if idle else 2
        return seen

    wanted: set[tuple[str, int]] = set()
    readers = [asyncio.ensure_future(read()) for _ in range(3)]
    await asyncio.gather(*(work() for _ in range(4)))

    hidden = {"job.log"} if kind == "session" else {"job.log", "job.progress"}
    jobs = (await ada.get("/api/jobs", params={"session_id": session, "limit": 200})).json()["jobs"]
    written = set()
    for job in jobs:
        events = (await ada.get(events_path(job["id"]), params={"limit": 200})).json()["events"]
        told = events if job["id"] != first.id else events[1:]
        written |= {(job["id"], e["seq"]) for e in told if e["type"] not in hidden}
    wanted |= written  # all at once: whoever has these is done
    seen = await asyncio.wait_for(asyncio.gather(*readers), 180)
    for each in seen:
        mine = [event for event in each if event in wanted]
        assert len(mine) == len(set(mine))
        assert set(mine) == wanted


@contextlib.asynccontextmanager
async def behind_a_buffer(
    settings: Settings, stack: RunningStack, *, wait: float
) -> AsyncIterator[httpx.AsyncClient]:
    """The status function as a buffering gateway shows it: nothing arrives before the end."""
    from minutehand.functions.status.app import build_app
    from minutehand.web.services import Pace, Services

    services = Services(
        settings.model_copy(update={"streaming": False}),
        pace=Pace(streaming=False, buffered_wait=wait),
    )
    transport = httpx.ASGITransport(build_app(settings, services=services))
    headers = {"authorization": f"Bearer {stack.sign_in(ADA.email)}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://api.test", headers=headers, timeout=60
    ) as api:
        yield api
    await services.aclose()


@pytest.fixture
async def buffered(settings: Settings, stack: RunningStack) -> AsyncIterator[httpx.AsyncClient]:
    """One that waits for a moment when there is nothing yet."""
    async with behind_a_buffer(settings, stack, wait=1.5) as api:
        yield api


async def test_a_buffered_stream_answers_at_once_with_what_is_there(
    hand: Hand, buffered: httpx.AsyncClient
) -> None:
    """And closes without an end, so that EventSource comes back for more."""
    job = await hand.enqueue()

    read = await follow(buffered, events_path(job.id))

    assert read.seqs == [1]
    assert read.end is None
