"""Event streams over real sockets: complete, resumable, fair, and ended cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.integration.api.conftest import ACME_ID, Hand


@dataclass
class Read:
    """What one connection of a stream brought."""

    status: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    last_id: str | None = None
    end: str | None = None
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
            if until is not None and len(read.events) >= until:
                break
    return read


def events_path(job_id: str) -> str:
    return f"/api/jobs/{job_id}/events"


async def test_a_stream_sends_a_job_from_its_first_event_to_its_end(
    hand: Hand, ada: httpx.AsyncClient
) -> None:
    """Gapless from 1, in order, the same as in the database, and then it closes by itself."""
    job = await hand.enqueue()
    reading = asyncio.ensure_future(follow(ada, events_path(job.id)))
    [lease] = await hand.lease()
    await hand.report(lease, 50, "half")
    await hand.settle(lease, result={"ok": True})

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


def options(session_id: str) -> Any:
    from minutehand.queue.models import EnqueueOptions

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
