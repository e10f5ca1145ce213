"""The Python client on the whole stack, over wires honest and hostile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from minutehand.client import (
    Client,
    FeedWatcher,
    JobEvent,
    JobNotFound,
    JobWatcher,
    Timing,
    TokenRefused,
)
from minutehand.local.users import ADA
from supabase import AsyncClient
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.clients import PATIENCE
from tests.support.hostile_proxy import NONE, Faults, HostileProxy
from tests.support.official import official
from tests.support.stacks import RunningStack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(400),
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

#: Impatient enough for a test.
TIMING = Timing(polling_interval=0.5, silence=2, first_silence=0.5)
NASTY = Faults(drop=0.1, duplicate=0.1, reorder=0.1, delay_seconds=(0, 0.02), cut=0.004)
EVE_EMAIL = "eve@globex.test"


@pytest.fixture
async def access(stack: RunningStack, wire: HostileProxy) -> AsyncIterator[dict[str, Any]]:
    """What every watch of Ada's takes."""
    async with official(wire.url, stack.supabase_publishable_key) as supabase:
        yield {"supabase": supabase, "token": lambda: stack.token(str(ADA.id)), "timing": TIMING}


def client_of(supabase: AsyncClient, token: Any) -> Client:
    return Client(supabase, schema="public", token=token)


def watch_job(job_id: str, *, supabase: AsyncClient, token: Any, **options: Any) -> JobWatcher:
    return client_of(supabase, token).watch_job(job_id, **options)


def watch_workspace(
    workspace_id: str, *, supabase: AsyncClient, token: Any, **options: Any
) -> FeedWatcher:
    return client_of(supabase, token).watch_workspace(workspace_id, **options)


def watch_session(
    session_id: str, *, supabase: AsyncClient, token: Any, **options: Any
) -> FeedWatcher:
    return client_of(supabase, token).watch_session(session_id, **options)


async def becomes(
    watcher: JobWatcher | FeedWatcher, wanted: Callable[[str], bool], seconds: float = PATIENCE
) -> str:
    """Wait until the watcher's freshness is a wanted one."""
    changed = asyncio.Event()
    forget = watcher.subscribe(changed.set)
    try:
        async with asyncio.timeout(seconds):
            while not wanted(watcher.freshness):
                changed.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 0.2)
    finally:
        forget()
    return watcher.freshness


def is_live(freshness: str) -> bool:
    return freshness == "live"


async def collect(watcher: JobWatcher, told: list[JobEvent]) -> None:
    async for event in watcher:
        told.append(event)


def truth(stack: RunningStack, job_id: str) -> list[tuple[int, str]]:
    with stack.connect() as sql:
        return sql.execute(
            "select seq, type from public.job_events where job_id = %s order by seq", (job_id,)
        ).fetchall()


def names(events: list[JobEvent]) -> list[tuple[int, str]]:
    return [(event.seq, event.type) for event in events]


async def call(function: Any, *arguments: Any, **options: Any) -> Any:
    return await asyncio.to_thread(function, *arguments, **options)


async def test_a_watch_reports_all_and_ends_with_the_job(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    """The promise of the module's example: history, news, end, and the ended row."""
    job_id = await call(worker.enqueue)
    [lease] = await call(worker.lease, 1)
    told: list[JobEvent] = []

    async with asyncio.timeout(PATIENCE), watch_job(job_id, **access) as watcher:
        reading = asyncio.create_task(collect(watcher, told))
        await becomes(watcher, is_live)
        await call(worker.report, lease, 50, "half")
        await call(worker.settle, lease, result={"n": 1})
        await reading

    assert names(told) == await call(truth, stack, job_id)
    assert watcher.job is not None
    assert (watcher.job.status, watcher.job.result) == ("completed", {"n": 1})
    assert watcher.freshness == "offline"


async def test_a_watch_continues_where_a_former_one_stopped(
    worker: HandWorker, access: dict[str, Any]
) -> None:
    job_id = await call(worker.enqueue)
    await call(worker.run, "failed", error={"type": "E", "message": "no"})

    first = [event async for event in watch_job(job_id, **access)]
    again = [event async for event in watch_job(job_id, after=1, **access)]
    nothing = [event async for event in watch_job(job_id, after=first[-1].seq, **access)]

    assert again == first[1:]
    assert nothing == []


async def test_a_job_that_failed_once_and_runs_again_is_followed_to_its_present_end(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    """An end in the history is not the end."""
    job_id = await call(worker.enqueue, max_attempts=1)
    await call(worker.run, "failed", error={"type": "E", "message": "no"})
    with stack.connect() as sql:
        sql.execute("update public.jobs set max_attempts = 2 where id = %s", (job_id,))
    await call(worker._client.post, "retry_job", json={"p_job_id": job_id},
               headers=stack.headers(stack.sign_in("ada@acme.test")))  # fmt: skip

    async with asyncio.timeout(PATIENCE), watch_job(job_id, **access) as watcher:
        ending = asyncio.create_task(watcher.ended())
        await becomes(watcher, is_live)
        lease = await call(worker.lease_soon)
        await call(worker.settle, lease)
        job = await ending

    assert job.status == "completed"


async def test_a_hostile_wire_changes_no_delivered_event(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, access: dict[str, Any]
) -> None:
    """Issue 5: lost, doubled, swapped, late and cut; each event once and in order."""
    jobs = await call(worker.enqueue_many, [{"payload": {"n": n}} for n in range(4)])
    leases = await call(worker.lease, 4, lease_seconds=600)
    watchers = [watch_job(job, **access) for job in jobs for _ in range(2)]
    told: list[list[JobEvent]] = [[] for _ in watchers]

    async with asyncio.timeout(2 * PATIENCE):
        reading = [
            asyncio.create_task(collect(watcher, into))
            for watcher, into in zip(watchers, told, strict=True)
        ]
        await asyncio.gather(*(becomes(watcher, is_live) for watcher in watchers))
        wire.faults = NASTY
        for n in range(100):
            for lease in leases:
                await call(worker.report, lease, n, f"line {n}")
            if n >= 11 and await wire.has_done(3, "dropped", "duplicated", "reordered"):
                break
        for lease in leases:
            await call(worker.settle, lease)
        wire.faults = NONE
        await asyncio.gather(*reading)

    assert min(wire.done[kind] for kind in ("dropped", "duplicated", "reordered")) >= 3
    for n, events in enumerate(told):
        assert names(events) == await call(truth, stack, jobs[n // 2])


async def test_a_refused_topic_is_polled_and_said_so(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    """On a project where the policies could not be created."""
    job_id = await call(worker.enqueue)
    told: list[JobEvent] = []
    with stack.connect() as sql:
        policies = sql.execute(
            "select policyname, roles::text[], qual from pg_policies"
            " where schemaname = 'realtime' and tablename = 'messages' and cmd = 'SELECT'"
        ).fetchall()
        for name, _, _ in policies:
            sql.execute(f'drop policy "{name}" on realtime.messages')
        try:
            async with asyncio.timeout(PATIENCE), watch_job(job_id, **access) as watcher:
                reading = asyncio.create_task(collect(watcher, told))
                assert await becomes(watcher, lambda f: f == "polling") == "polling"
                await call(worker.run)
                await reading
        finally:
            for name, roles, qual in policies:
                sql.execute(
                    f'create policy "{name}" on realtime.messages for select'
                    f" to {', '.join(roles)} using ({qual})"
                )

    assert policies
    assert names(told) == await call(truth, stack, job_id)


async def test_fresh_tokens_keep_a_watch_live(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    """The socket is given each token before the last one expires, so that it is never closed."""
    job_id = await call(worker.enqueue)
    given: list[str] = []
    seen: set[str] = set()

    for seconds in (4, 8, 16):  # longer where the machine took the rest of a token's life
        given.clear()
        seen.clear()
        often = asyncio.Event()

        async def fresh(seconds: int = seconds, often: asyncio.Event = often) -> str:
            given.append(stack.token(str(ADA.id), expires_in=seconds))
            if len(given) >= 3:
                often.set()
            return given[-1]

        async with watch_job(job_id, **{**access, "token": fresh}) as watcher:
            await becomes(watcher, is_live)
            watcher.subscribe(lambda of=watcher: seen.add(of.freshness))  # type: ignore[misc]
            await asyncio.wait_for(often.wait(), PATIENCE)
        if "polling" not in seen:
            break

    assert seen <= {"live", "catching-up", "offline"}


async def test_an_expired_token_without_a_source_ends_the_watch(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    job_id = await call(worker.enqueue)
    expired = stack.token(str(ADA.id), expires_in=-60)

    with pytest.raises(TokenRefused):
        await watch_job(job_id, **{**access, "token": expired}).ended()


async def test_a_stranger_and_a_deleted_job_end_in_not_found(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    job_id = await call(worker.enqueue)
    with pytest.raises(JobNotFound):
        await watch_job(job_id, **{**access, "token": stack.sign_in(EVE_EMAIL)}).ended()

    async with asyncio.timeout(PATIENCE), watch_job(job_id, **access) as watcher:
        ending = asyncio.create_task(watcher.ended())
        await becomes(watcher, is_live)
        with stack.connect() as sql:
            sql.execute("delete from public.jobs where id = %s", (job_id,))
        with pytest.raises(JobNotFound):
            await ending


async def test_cancelling_the_reader_closes_the_watch(
    worker: HandWorker, wire: HostileProxy, access: dict[str, Any]
) -> None:
    """No task and no socket outlives it, with `async with` or without."""
    job_id = await call(worker.enqueue)
    # the caller's own connections for calls stay: one for reads, one that says who follows
    caller = client_of(access["supabase"], access["token"])
    await asyncio.gather(caller.get_job(job_id), caller.get_job(job_id))
    before = asyncio.all_tasks()
    watcher = watch_job(job_id, **access)
    reading = asyncio.create_task(collect(watcher, []))
    await becomes(watcher, is_live)

    reading.cancel()
    await asyncio.wait([reading])

    assert reading.cancelled()
    assert watcher.freshness == "offline"

    def left() -> set[str]:
        names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}  # type: ignore[union-attr]
        return {name for name in names if not name.startswith(("HostileProxy", "_L"))}

    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while left():  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert left() == set()


async def test_a_workspace_reports_each_state_change_once_and_in_order(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, access: dict[str, Any]
) -> None:
    told: list[JobEvent] = []
    async with (
        asyncio.timeout(2 * PATIENCE),
        watch_workspace(worker.workspace_id, **access) as watcher,
    ):
        reading = asyncio.create_task(read_until(watcher, told, lambda: len(told) >= 9))
        await becomes(watcher, is_live)
        wire.faults = NASTY
        jobs = [await call(worker.enqueue) for _ in range(3)]
        for _ in jobs:
            await call(worker.run)
        wire.faults = NONE
        await reading

    for job in jobs:
        mine = [(e.seq, e.type) for e in told if e.job_id == job]
        assert mine == await call(truth, stack, job)


async def test_a_session_without_a_job_is_waited_for(
    stack: RunningStack, worker: HandWorker, access: dict[str, Any]
) -> None:
    session = f"s-{uuid4().hex[:8]}"
    told: list[Any] = []
    async with asyncio.timeout(PATIENCE), watch_session(session, **access) as watcher:
        reading = asyncio.create_task(read_until(watcher, told, lambda: len(told) >= 4))
        await becomes(watcher, lambda freshness: freshness in {"live", "polling"})
        job_id = await call(worker.enqueue, session_id=session)
        [lease] = await call(worker.lease)
        await call(worker.report, lease, 10, "not told here")
        await becomes(watcher, is_live)
        await call(worker.settle, lease)
        await reading

    expected = [one for one in await call(truth, stack, job_id) if one[1] != "job.log"]
    assert names(told) == expected


async def read_until(
    watcher: FeedWatcher, told: list[JobEvent], enough: Callable[[], bool]
) -> None:
    async for event in watcher:
        told.append(event)
        if enough():
            return
