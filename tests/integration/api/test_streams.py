"""Event streams over real sockets: complete, resumable, and ended cleanly."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import pytest
from httpx_sse import aconnect_sse

from infra.bench.scratch import scratch_settings, user_token
from minutehand.cli.watch import omit_deliveries
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.models import JobEvent
from minutehand.terminal.connection import Connection
from minutehand.terminal.events import stream
from minutehand.web.services import StreamTiming
from minutehand.web.sse import Feed, JobCursor, JobFeed, SessionFeed
from tests.contract.api import Api, serving_api
from tests.support.engine import ACME, ADA, Json, piece
from tests.support.patience import until
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed


@dataclass
class Read:
    """The events that a client got from one connection to an event stream."""

    status: int = 0
    events: list[Json] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    last_id: str | None = None
    end: str | None = None


async def follow(
    api: Api,
    path: str,
    *,
    last_id: str | None = None,
    until: int | None = None,
    user: str | None = ADA,
) -> Read:
    """Read an event stream until it ends, or until `until` events have arrived."""
    read = Read(last_id=last_id)
    headers = {"authorization": f"Bearer {user_token(user)}"} if user else {}
    headers |= {"last-event-id": last_id} if last_id else {}
    async with aconnect_sse(api.http, "GET", path, headers=headers) as source:
        read.status = source.response.status_code
        if read.status != 200:
            return read
        async for event in source.aiter_sse():
            read.last_id = event.id or read.last_id
            if event.event == "end":
                read.end = event.json()["reason"]
            elif event.data:
                read.events.append(event.json())
                read.ids.append(event.id)
            if until is not None and len(read.events) >= until:
                break
    return read


def events_path(job_id: str) -> str:
    return f"/api/jobs/{job_id}/events"


async def test_an_end_that_comes_amid_a_look_has_its_last_words(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may end between the two reads of a poll.

    The next poll then returns the job's last output and its end.
    """
    queue, job_id = api.client(), api.engine.enqueue()
    lease, events_after = api.engine.lease_one(), queue.events_after

    async def ended_meanwhile(job_id: str, seq: int, **more: Any) -> list[JobEvent]:
        if seq == 1:
            api.engine.say(lease, piece("the end"))
            api.engine.settle(lease)
        return await events_after(job_id, seq, **more)

    monkeypatch.setattr(queue, "events_after", ended_meanwhile)
    feed = JobFeed(queue, job_id, after=JobCursor(1))
    looks = [await feed.read(), await feed.read()]

    types = [[line.type for line in look.lines] for look in looks]
    assert types == [["job.leased"], ["job.output", "job.completed"]]
    assert [(look.end, look.more) for look in looks] == [(None, True), ("completed", False)]


async def test_output_written_during_a_read_of_a_session_precedes_the_jobs_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job may start and end after the feed has read output, and before it reads events.

    The feed reads the output again, because it forgets a job after the job's end.
    """
    queue, job_id = api.client(), api.engine.enqueue(session_id="s")
    call, session_feed, has_read = queue.call, queue.session_feed, asyncio.Event()

    async def read_output(*names: str, **more: Any) -> Any:
        page = await call(*names, **more)
        has_read.set()
        return page

    async def ended_meanwhile(*at: Any) -> Any:
        await has_read.wait()
        lease = api.engine.lease_one()
        api.engine.say(lease, piece("all"))
        api.engine.settle(lease)
        return await session_feed(*at)

    monkeypatch.setattr(queue, "call", read_output)
    monkeypatch.setattr(queue, "session_feed", ended_meanwhile)
    batch = await SessionFeed(queue, "s", after=None).read()

    types = ["job.output", "job.created", "job.leased", "job.completed"]
    assert [line.type for line in batch.lines] == types
    assert batch.lines[0].data["job_id"] == job_id


async def test_a_look_that_fails_loses_no_words(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a poll failed, the next poll returns output that the failed poll had read."""
    queue, job_id = api.client(), api.engine.enqueue(session_id="s")
    lease = api.engine.lease_one()
    api.engine.say(lease, piece("words"))
    feeds: list[Feed] = [
        JobFeed(queue, job_id, after=JobCursor()),
        SessionFeed(queue, "s", after=None),
    ]

    async def away(*_: Any, **__: Any) -> None:
        raise QueueUnavailable("away")

    for name, feed in zip(("events_after", "session_feed"), feeds, strict=True):
        with monkeypatch.context() as patched:
            patched.setattr(queue, name, away)
            with pytest.raises(QueueUnavailable):
                await feed.read()
        lines = (await feed.read()).lines
        assert [line.data["data"]["text"] for line in lines if line.type == "job.output"] == [
            "words"
        ]


async def test_a_stream_says_a_jobs_words_and_continues_in_mid_sentence(api: Api) -> None:
    """A client that resumes a job's stream with `Last-Event-ID` gets each event and character once.

    The output of another attempt starts from 0.
    """
    engine, job_id = api.engine, api.engine.enqueue()
    lease, path = engine.lease_one(), events_path(job_id)
    engine.say(lease, piece("Grüße 🌍, "))
    first = await follow(api, path, until=3)
    engine.say(lease, piece("Welt", 9))
    second = await follow(api, path, last_id=first.last_id, until=1)
    engine.say(lease, piece("a" * 40_000, attempt=2))
    engine.report(lease, progress={"percentage": 50})
    engine.settle(lease)
    third = await follow(api, path, last_id=second.last_id)
    fourth = await follow(api, path, last_id=third.ids[-1])
    first_time = await follow(api, f"{path}?after=4")

    reads = [
        [each["data"] for each in read.events if each["type"] == "job.output"]
        for read in (first, second, third)
    ]
    result = [[(page["attempt"], page["from"], page["text"]) for page in pages] for pages in reads]
    assert result[:2] == [[(1, 0, "Grüße 🌍, ")], [(1, 9, "Welt")]]
    assert result[2] == [(2, 0, "a" * 30_000), (2, 30_000, "a" * 10_000)]
    assert (third.end, fourth.status) == ("completed", 204)  # 204 ends an EventSource
    assert (first_time.status, first_time.end) == (200, "completed")
    logged = (await api.call("GET", path)).json()["events"]
    events = [each for read in (first, third) for each in read.events if "seq" in each]
    fields = itemgetter("seq", "type", "data")
    assert [*map(fields, events)] == [*map(fields, logged)]
    rest = await api.call("GET", f"/api/jobs/{job_id}/output/reply?from=39990")
    assert rest.json()["text"] == "a" * 10
    for bad in ("1 {", '1 {"reply": {"next": -1}}'):
        assert (await follow(api, path, last_id=bad)).status == 400
    watched = [json.loads(line) for line in (await api.command("watch", job_id)).splitlines()]
    assert [each["data"] for each in watched if each["type"] == "job.output"] == reads[2]


async def test_watch_of_a_workspace_omits_webhook_deliveries(api: Api) -> None:
    """`minutehand watch` of a workspace omits events of webhook deliveries.

    It does not read the delivery's job again for each event.
    """
    api.engine.publish_deliveries()
    delivery = api.engine.enqueue(job_type="webhook_delivery")
    api.engine.settle(api.engine.lease_one(), "failed")
    job_id = api.engine.enqueue()
    connection = Connection(api.environment(), given_workspace=ACME)

    path, reads = f"{connection.path('events')}?from=start", list[str]()

    def first() -> Any:
        with connection.api as http:
            http.event_hooks["request"].append(lambda request: reads.append(request.url.path))
            with closing(omit_deliveries(connection, stream(connection, path))) as events:
                return next(events).json()

    assert (await asyncio.to_thread(first))["job_id"] == job_id
    assert f"/api/jobs/{delivery}" in reads
    assert f"/api/jobs/{job_id}" not in reads


async def test_a_sessions_stream_says_the_words_of_its_jobs_wherever_it_is_cut(api: Api) -> None:
    """A client that resumes a session's stream at any position gets each event and character once.

    A job's output arrives before the job's end.
    """
    engine, path = api.engine, "/api/sessions/s/events"
    engine.enqueue(session_id="other")
    jobs = engine.enqueue_many(25, session_id="s")
    leases = [lease for lease in engine.lease(26) if lease["job"]["id"] in jobs]
    expected = {job_id: "" for job_id in jobs}
    read: dict[str, str] = {job_id: "" for job_id in jobs}
    ends: list[str] = []
    seen: list[tuple[str, int]] = []
    last: str | None = None

    def say(text: str) -> None:
        for lease in leases:
            job_id = lease["job"]["id"]
            engine.say(lease, piece(text, len(expected[job_id])))
            expected[job_id] += text

    async def read_on(until: Callable[[], bool]) -> None:
        nonlocal last
        while not until():
            for event in (batch := await follow(api, path, last_id=last, until=7)).events:
                job_id, data = event["job_id"], event["data"]
                seen.extend([(job_id, event["seq"])] if "seq" in event else ())
                if event["type"] == "job.output":
                    assert data["from"] == len(read[job_id])
                    read[job_id] += data["text"]
                elif event["type"] == "job.completed":
                    assert read[job_id] == expected[job_id]
                    ends.append(job_id)
            last = batch.last_id

    async with asyncio.timeout(120):
        say("Grüße 🌍, ")
        await read_on(lambda: read == expected)
        say("b" * 31_000)
        await read_on(lambda: read == expected)
        say("the end")
        engine.complete(leases)
        await read_on(lambda: len(ends) >= len(jobs))

    assert read == expected
    logged = "select job_id::text, seq from job_events where job_id = any (%s)"
    assert sorted(seen) == sorted(engine.rows(logged, jobs))
    assert last is not None
    assert "{" not in last  # the cursor does not contain ended jobs
    for bad in ("{", '{"a": 1}'):
        assert (await follow(api, path, last_id=f"{last} {bad}")).status == 400


async def test_a_guest_reads_the_words_of_their_session(renewed: Renewed) -> None:
    """A guest with a session's id reads the streams and the output of that session's jobs only."""
    project = project_of_a_file(renewed, guests=True)
    async with serving_api(project) as api:
        engine = api.engine
        engine.register(lease_seconds=60)
        session = engine.rpc("open_guest_session", p_workspace_id=ACME)["session_id"]
        job_id, lease = engine.start(session_id=session)
        engine.say(lease, piece("dear guest"))
        read = await follow(api, f"/api/sessions/{session}/events", user=None, until=1)
        engine.settle(lease)
        of_job, page = events_path(job_id), f"/api/jobs/{job_id}/output/reply"
        rest = await follow(api, f"{of_job}?session_id={session}", user=None)
        for address, key in ((of_job, "events"), (page, "text")):
            assert (await api.call("GET", address, user=None)).status_code == 401
            answer = await api.call("GET", f"{address}?session_id={session}", user=None)
            assert answer.json()[key]

    assert [each["data"]["text"] for each in read.events] == ["dear guest"]
    assert (rest.events[0]["type"], rest.end) == ("job.output", "completed")


@pytest.fixture
async def unpolled(renewed: Renewed) -> AsyncIterator[Api]:
    """An API whose streams read after notifications alone."""
    settings = scratch_settings(
        renewed.gateway.url,
        apps=(),
        streaming=True,
        environ={"DATABASE_URL": renewed.url},
        allow_anonymous=True,
    )
    never = StreamTiming(streaming=True, poll=900, max_poll=900, max_recheck=900)
    async with serving_api(Project(settings, renewed), timing=never) as api:
        api.engine.register(lease_seconds=60)
        yield api


async def test_events_arrive_by_notifications_alone(unpolled: Api) -> None:
    """One database connection notifies all event streams of new events.

    After a loss, it is opened again.
    """
    listening = "from pg_stat_activity where application_name = 'minutehand_events'"
    engine = unpolled.engine
    job_id = engine.enqueue(session_id="s")
    expected = {"jobs/" + job_id: 3, "sessions/s": 4, f"workspaces/{ACME}": 3}
    reads = [
        asyncio.create_task(follow(unpolled, f"/api/{path}/events", until=count))
        for path, count in expected.items()
    ]
    await asyncio.to_thread(until, lambda: engine.count("queue.streamed_topics") == 3)
    engine.settle(engine.lease_one())
    assert engine.one(f"select count(*) {listening}") == 1
    engine.run(f"select pg_terminate_backend(pid) {listening}")
    engine.enqueue(session_id="s")
    async with asyncio.timeout(60):
        assert [len((await read).events) for read in reads] == list(expected.values())


async def test_streams_end_with_the_right_to_read_them(unpolled: Api) -> None:
    """A removed member's streams end at the removal, and a guest's at the end of the session."""
    engine = unpolled.engine
    engine.allow_guests()
    opened = engine.rpc("open_guest_session", p_workspace_id=ACME)
    session = opened["session_id"]
    job_id = engine.enqueue(session_id=session)
    paths = events_path(job_id), f"/api/sessions/{session}/events"
    soon = "set expires_at = queue.clock() + interval '5 seconds'"
    engine.run(f"update queue.guest_sessions {soon}")
    reads = [follow(unpolled, f"{path}?session_id={session}", user=None) for path in paths]
    reads += [follow(unpolled, path) for path in (*paths, f"/api/workspaces/{ACME}/events")]
    async with asyncio.timeout(60):
        tasks = [asyncio.create_task(read) for read in reads]
        assert [(await task).end for task in tasks[:2]] == ["gone"] * 2
        await asyncio.to_thread(until, lambda: engine.count("queue.streamed_topics") == 3)
        engine.run("delete from workspace_members where user_id = %s", ADA)
        assert [(await task).end for task in tasks[2:]] == ["gone"] * 3


async def test_a_change_from_before_the_registration_is_read(
    unpolled: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that did not see a stream's registration commits after the stream's read.

    It sends no notification, so the stream reads once more.
    """
    engine = unpolled.engine
    job_id, lease = engine.start()
    with engine.another_session() as writer:
        writer.run("begin")
        writer.settle(lease)
        read = JobFeed.read

        async def read_then_commit(feed: JobFeed) -> Any:
            batch = await read(feed)
            if engine.count("queue.streamed_topics"):
                writer.run("commit")
            return batch

        monkeypatch.setattr(JobFeed, "read", read_then_commit)
        async with asyncio.timeout(60):
            assert (await follow(unpolled, events_path(job_id))).end == "completed"
