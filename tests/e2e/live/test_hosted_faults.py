"""What hosted Realtime does at times, to both clients: no event is missing, and `live` is true.

Reads in silence and polls are too rare to help here: what is found is found by reading promptly.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from psycopg.types.json import Jsonb

from tests.e2e.console.worker import HandWorker
from tests.e2e.live.clients import CLIENTS, PATIENCE, Said, history
from tests.integration.realtime.support import Server
from tests.support.functions import until
from tests.support.hostile_proxy import HostileProxy
from tests.support.stacks import RunningStack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(400),
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

TIMING = {"first_silence": 0.5, "silence": 600.0, "polling_interval": 1.0}
#: Messages a second of Realtime here; whoever sends more loses them.
RATE = 30
#: What must be found sooner than by a read in silence.
PROMPTLY = 60.0

Start = Callable[..., Awaitable[tuple[Server, HostileProxy]]]


@pytest.fixture
async def realtime(stack: RunningStack) -> AsyncIterator[Start]:
    """Start another Realtime over the stack's database, with switches, and a way to it."""
    with ExitStack() as servers:
        async with AsyncExitStack() as wires:

            async def start(**switches: Any) -> tuple[Server, HostileProxy]:
                server = await asyncio.to_thread(
                    Server, stack.database_url, environ=stack.values, **switches
                )
                servers.callback(server.stop)
                gateway = int(stack.supabase_url.rsplit(":", 1)[1])
                wire = HostileProxy(gateway, websockets_port=server.port)
                await wire.start()
                wires.push_async_callback(wire.stop)
                return server, wire

            yield start


@pytest.fixture
def no_budget(stack: RunningStack) -> Iterator[None]:
    """The database sends whatever happens, as other writers of a project do."""

    def set_budget(value: int | str) -> None:
        settings = Jsonb({"realtime_messages_per_second": value})
        with stack.connect() as sql:
            sql.execute("select public.set_settings(%s)", (settings,))

    set_budget(1_000_000)
    yield
    set_budget("pro")


async def watching(
    held: AsyncExitStack,
    stack: RunningStack,
    wire: HostileProxy,
    kind: str,
    subject: str,
    **timing: float,
) -> list[Said]:
    """Both clients watch the subject."""
    timing = {**TIMING, **timing}
    contexts = [client(stack, wire.url, kind, subject, **timing) for client in CLIENTS]
    return [await held.enter_async_context(context) for context in contexts]


async def all_say(
    watchers: list[Said], wanted: Callable[[str, int], bool], seconds: float = PROMPTLY
) -> None:
    """Wait until each says so; sooner than a server is believed that does not say it is ready."""
    await asyncio.gather(*(said.until(wanted, seconds) for said in watchers))


async def a_running_job(worker: HandWorker, **options: Any) -> tuple[str, dict[str, Any]]:
    """A job that is leased."""
    job = await asyncio.to_thread(worker.enqueue, **options)
    [lease] = await asyncio.to_thread(worker.lease, 1, lease_seconds=600)
    return job, lease


@pytest.mark.parametrize("kind", ["job", "workspace"])
async def test_before_replication_runs_nothing_is_live_and_nothing_is_lost(
    stack: RunningStack, worker: HandWorker, realtime: Start, kind: str
) -> None:
    """An open write transaction: the join is answered, and what is committed goes nowhere."""
    job, lease = await a_running_job(worker)
    async with AsyncExitStack() as held:
        with stack.connect(autocommit=False) as writing:
            writing.execute("select pg_current_xact_id()")
            _, wire = await realtime(wait=False)
            subject = job if kind == "job" else worker.workspace_id
            watchers = await watching(held, stack, wire, kind, subject)
            past = 2 if kind == "job" else 0
            await joined(wire, len(watchers))
            await all_say(watchers, lambda state, told: state == "catching-up" and told == past)
            await asyncio.to_thread(worker.settle, lease, "retry", retry_after_seconds=0)
            await all_say(watchers, lambda _, told: told > past)
            said = {state for each in watchers for state, _ in each.states}

        await all_say(watchers, lambda state, _: state == "live")
        await asyncio.to_thread(worker.run)
        truth = (await asyncio.to_thread(history, stack, job))[0 if kind == "job" else 2 :]
        await all_say(watchers, lambda _, told: told >= len(truth))

    assert said <= {"catching-up", "polling"}
    assert [each.told for each in watchers] == [truth, truth]


async def joined(wire: HostileProxy, sockets: int) -> None:
    """Wait until the clients' joins have been answered."""
    async with asyncio.timeout(PROMPTLY):
        while wire.done["passed"] < sockets:  # noqa: ASYNC110 - an answer each
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("no_budget")
@pytest.mark.parametrize("kind", ["job", "session", "workspace"])
async def test_what_is_dropped_above_the_rate_is_found_promptly(
    stack: RunningStack, worker: HandWorker, realtime: Start, kind: str
) -> None:
    """The channel stays joined, and no message says that another is missing."""
    server, wire = await realtime(messages_per_second=RATE, rate_window_seconds=6)
    session = f"s-{uuid4().hex[:8]}"
    job, lease = await a_running_job(worker, session_id=session)
    subjects = {"job": job, "session": session, "workspace": worker.workspace_id}
    async with AsyncExitStack() as held:
        # a first message may be late by so much before its socket is taken for a dead one
        late = {"polling_interval": 20.0}
        watchers = await watching(held, stack, wire, kind, subjects[kind], **late)
        others: list[str] = []

        async def step(n: int) -> None:
            if kind == "workspace":
                others.append(await asyncio.to_thread(worker.enqueue))
            else:
                await asyncio.to_thread(worker.report, lease, n % 100)

        async def history_of_all() -> set[tuple[str, int, str]]:
            histories = [await asyncio.to_thread(history, stack, each) for each in [job, *others]]
            # of a workspace from now on, not from the beginning
            return set().union(*(histories[1:] if kind == "workspace" else histories))

        numbers = count()
        for _ in range(5):
            await all_say(watchers, lambda state, _: state == "live", PATIENCE)
            sockets, heard, drops = wire.websockets, wire.done["job_events"], dropped_by(server)
            await step(next(numbers))
            async with asyncio.timeout(PROMPTLY):
                while wire.done["job_events"] < heard + 2:  # noqa: ASYNC110 - each was sent one
                    await asyncio.sleep(0.02)
            for _ in range(500):
                await asyncio.to_thread(other_writers, stack)
                await step(next(numbers))
                dropped = dropped_by(server) > drops
                if dropped and all(state(said) == "catching-up" for said in watchers):
                    break  # each knows that something is dropped
            expected = await history_of_all()
            await asyncio.gather(*(told(said, expected) for said in watchers))
            stayed = wire.websockets == sockets
            if stayed:
                break  # else a busy machine was so late that a socket seemed dead
        await asyncio.to_thread(worker.settle, lease)

    assert dropped
    assert stayed
    for said in watchers:
        assert len(said.told) == len(set(said.told))


@pytest.mark.usefixtures("no_budget")
@pytest.mark.parametrize("kind", ["job", "workspace"])
async def test_a_dropped_message_that_nothing_follows_is_found(
    stack: RunningStack, worker: HandWorker, realtime: Start, kind: str
) -> None:
    """After a pause: no check of earlier news is due, and no later message shows the hole."""
    server, wire = await realtime(messages_per_second=RATE, rate_window_seconds=6)
    job, lease = await a_running_job(worker)
    async with AsyncExitStack() as held:
        subject = job if kind == "job" else worker.workspace_id
        watchers = await watching(held, stack, wire, kind, subject)
        await all_say(watchers, lambda state, _: state == "live")
        for n in range(10):
            told, sent = [len(said.told) for said in watchers], wire.done["job_events"]
            await asyncio.sleep(20 * TIMING["first_silence"])
            await asyncio.to_thread(other_writers, stack)
            await asyncio.sleep(1)  # Realtime compares the rate at the next tick
            if kind == "job":
                await asyncio.to_thread(worker.report, lease, n)
            else:
                await asyncio.to_thread(worker.enqueue)
            for said, before in zip(watchers, told, strict=True):
                await said.until(partial(is_more, before), PROMPTLY)
            if wire.done["job_events"] == sent:
                break  # else a busy machine counted the others too late
        await asyncio.to_thread(worker.settle, lease)

    assert wire.done["job_events"] == sent
    assert dropped_by(server)


def other_writers(stack: RunningStack) -> None:
    """What others of the project send, well above the rate."""
    with stack.connect() as sql:
        sql.execute(
            "select realtime.send(jsonb_build_object('n', n), 'other', 'elsewhere', true)"
            " from generate_series(1, %s) as n",
            (12 * RATE,),
        )


def dropped_by(server: Server) -> int:
    """How often it said that it drops what is above the rate."""
    return sum(event.get("event") == "realtime.rate_limited" for event in server.events)


def is_more(before: int, _: str, told: int) -> bool:
    """Whether something was told since."""
    return told > before


def state(said: Said) -> str:
    """How fresh it says to be now."""
    return said.states[-1][0]


async def told(said: Said, expected: set[tuple[str, int, str]]) -> None:
    """Wait until all of it was told."""
    try:
        await said.until(lambda *_: expected <= set(said.told), PROMPTLY)
    except TimeoutError as error:
        missing = sorted(expected - set(said.told))
        raise AssertionError(f"{missing} of {len(expected)}, said {said.states[-9:]}") from error


async def test_refusals_late_and_early_end_in_a_live_watch(
    stack: RunningStack, worker: HandWorker, realtime: Start
) -> None:
    """A handshake that fails after two seconds, a join that is refused after five."""
    _, wire = await realtime(
        refused_handshakes=2,
        connect_error_delay_seconds=2,
        exhausted_joins=2,
        join_error_delay_seconds=5,
    )
    job, lease = await a_running_job(worker)
    async with AsyncExitStack() as held:
        watchers = await watching(held, stack, wire, "job", job)
        await all_say(watchers, lambda state, told: state == "live" and told == 2)
        await asyncio.to_thread(worker.report, lease, 50)
        await all_say(watchers, lambda _, told: told == 3)
        await asyncio.to_thread(worker.settle, lease)

    truth = history(stack, job)
    assert [said.told for said in watchers] == [truth, truth]


async def test_a_tenant_that_went_cold_while_no_one_listened_loses_nothing(
    stack: RunningStack, worker: HandWorker, realtime: Start
) -> None:
    """Replication stops without sockets, and the join that starts it again is answered at once."""
    server, wire = await realtime(tenant_idle_seconds=0.05, replication_ready_seconds=0.5)
    job, lease = await a_running_job(worker)
    async with AsyncExitStack() as held:
        watchers = await watching(held, stack, wire, "job", job)
        await all_say(watchers, lambda state, _: state == "live")
        wire.closed = True
        wire.cut()
        await asyncio.to_thread(server.wait_for, "realtime.tenant_idle")
        await asyncio.to_thread(worker.report, lease, 50)
        wire.closed = False
        await all_say(watchers, lambda state, told: state == "live" and told == 3)
        await asyncio.to_thread(worker.settle, lease)

    truth = history(stack, job)
    assert [said.told for said in watchers] == [truth, truth]


@pytest.fixture
def partitions(stack: RunningStack) -> Iterator[None]:
    """Today's partition is back afterwards."""
    yield
    with stack.connect() as sql:
        sql.execute("select realtime.maintain_partitions()")


@pytest.mark.usefixtures("partitions")
async def test_without_todays_partition_clients_poll_and_see_everything(
    stack: RunningStack, worker: HandWorker, realtime: Start
) -> None:
    """Joins are refused, and what the database sends is lost at the insert."""
    job, lease = await a_running_job(worker)
    _, wire = await realtime(missing_partition=True)
    gone = "to_regclass('realtime.messages_' || to_char(now(), 'YYYY_MM_DD')) is null"
    await asyncio.to_thread(until, stack, f"select ({gone})::int", 1)  # it is dropped meanwhile
    async with AsyncExitStack() as held:
        watchers = await watching(held, stack, wire, "job", job)
        await all_say(watchers, lambda state, _: state == "polling")
        await asyncio.to_thread(worker.report, lease, 50)
        await asyncio.to_thread(worker.settle, lease)

    truth = history(stack, job)
    assert [said.told for said in watchers] == [truth, truth]
    assert "live" not in {state for said in watchers for state, _ in said.states}
