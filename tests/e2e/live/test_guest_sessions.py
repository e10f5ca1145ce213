"""A guest session on the whole stack: a publishable key and an id suffice, neither alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from minutehand.client import Client, QueueError, Timing
from minutehand.config import Settings
from minutehand.functions.status.app import build_app
from minutehand.local.users import ADA, EVE
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.conftest import Open
from tests.integration.realtime.support import Socket
from tests.support.hostile_proxy import Faults, HostileProxy
from tests.support.official import official
from tests.support.stacks import RunningStack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.timeout(400),
    pytest.mark.usefixtures("room"),
    # the official client reads properties that `websockets` deprecates
    pytest.mark.filterwarnings("ignore:ConnectionClosed.code is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.reason is deprecated:DeprecationWarning"),
]

DRIVER = Path(__file__).parent / "js" / "guest_session.mjs"
SECONDS = 120.0
Told = list[tuple[str, int, str]]
Say = Callable[[Callable[[dict[str, Any]], bool]], Awaitable[dict[str, Any]]]


@pytest.fixture
def guest_session(stack: RunningStack, worker: HandWorker) -> str:
    """The id of a guest session to the worker's workspace, for whoever holds it."""
    return opened(stack, worker)


def opened(stack: RunningStack, worker: HandWorker, **options: Any) -> str:
    """Open a guest session as the workspace's manager does."""
    answer = httpx.post(
        f"{stack.supabase_url}/rest/v1/rpc/open_guest_session",
        headers=stack.headers(stack.sign_in(ADA.email)),
        json={"p_workspace_id": worker.workspace_id, "p_options": options},
    )
    assert answer.is_success, answer.text
    session: str = answer.json()["session_id"]
    return session


def written(stack: RunningStack, session: str) -> Told:
    """The session's events in the database, log lines left out, per job in order."""
    with stack.connect() as sql:
        return [
            (str(job), seq, kind)
            for job, seq, kind in sql.execute(
                "select job_id, seq, type from public.job_events"
                " where session_id = %s and type <> 'job.log' order by job_id, seq",
                (session,),
            )
        ]


@asynccontextmanager
async def guest(stack: RunningStack, url: str, session: str, **owner: str) -> AsyncIterator[Say]:
    """The browser's client in Node without a user; waits for a state that is wanted."""
    request = {
        **owner,
        "url": url,
        "key": stack.supabase_publishable_key,
        "session": session,
        "options": {"pollingInterval": 300, "silence": 1000, "firstSilence": 500},
    }
    process = await asyncio.create_subprocess_exec(
        str(node_binary()),
        str(DRIVER),
        json.dumps(request),
        stdout=asyncio.subprocess.PIPE,
        limit=2**22,
    )
    state: dict[str, Any] = {}

    async def until(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        nonlocal state
        assert process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while not (state and wanted(state)):
                line = await process.stdout.readline()
                assert line, "the guest has died"
                state = json.loads(line)
        return state

    try:
        yield until
    finally:
        process.kill()
        await process.wait()


async def run_jobs(worker: HandWorker, session: str, count: int = 3) -> list[str]:
    """Run jobs of a session, with progress and a log line each."""
    ids = []
    for number in range(count):
        options = {"session_id": session}
        ids.append(await asyncio.to_thread(worker.enqueue, {"prompt": "hidden"}, **options))
        [lease] = await asyncio.to_thread(worker.lease)
        await asyncio.to_thread(worker.report, lease, 50, "inside")
        await asyncio.to_thread(worker.settle, lease, result={"number": number})
    return ids


def told_in_order(state: dict[str, Any]) -> Told:
    return sorted((job, seq, kind) for job, seq, kind, _ in state["told"])


def all_ended(count: int) -> Callable[[dict[str, Any]], bool]:
    def wanted(state: dict[str, Any]) -> bool:
        # live it may be a minute later only: what was dropped at the end says that more may be
        ends = [kind for _, _, kind, _ in state["told"] if kind == "job.completed"]
        # what an event leaves out, as a result, is read after it
        return len(ends) == count and all(job["result"] is not None for job in state["jobs"])

    return wanted


async def test_a_browser_without_a_user_follows_its_guest_session_to_the_letter(
    stack: RunningStack, worker: HandWorker, wire: HostileProxy, guest_session: str
) -> None:
    """Also over a wire that loses and doubles; and it learns when the guest session is closed."""
    async with guest(stack, wire.url, guest_session) as until:
        await until(lambda state: state["freshness"] == "live")
        wire.faults = Faults(drop=0.1, duplicate=0.1, reorder=0.1, delay_seconds=(0, 0.02))
        ids = await run_jobs(worker, guest_session)
        state = await until(all_ended(3))

        assert told_in_order(state) == written(stack, guest_session)
        assert {job["id"] for job in state["jobs"]} == set(ids)
        assert sorted(job["result"]["number"] for job in state["jobs"]) == [0, 1, 2]
        assert all("payload" not in job for job in state["jobs"])

        with stack.connect() as sql:
            sql.execute("select public.close_guest_session(%s)", (guest_session,))
        await run_jobs(worker, guest_session, 1)
        gone = await until(lambda state: state["missing"])
        assert gone["freshness"] != "live"
        assert told_in_order(gone) == told_in_order(state)


async def test_a_browser_with_a_wrong_id_is_reported_missing(
    stack: RunningStack, worker: HandWorker, guest_session: str
) -> None:
    """A guess next to a real guest session is never live, whatever happens in it."""
    wrong = guest_session[:-1] + ("0" if guest_session[-1] != "0" else "1")
    async with guest(stack, stack.supabase_url, wrong) as until:
        state = await until(lambda state: state["missing"])
        await run_jobs(worker, guest_session, 1)

        assert state["freshness"] != "live"
        assert (state["told"], state["jobs"]) == ([], [])


async def test_the_user_a_guest_session_is_for_follows_one_job_with_its_log_lines(
    stack: RunningStack, worker: HandWorker
) -> None:
    """Live and to the letter, although he is in no workspace of the job's."""
    session = opened(stack, worker, user_id=str(EVE.id))
    [job_id] = await run_jobs(worker, session, 1)
    owner = {"token": stack.token(str(EVE.id)), "job": job_id}
    async with guest(stack, stack.supabase_url, session, **owner) as until:
        state = await until(lambda state: all_ended(1)(state) and state["freshness"] == "live")

    assert [seq for _, seq, _, _ in state["told"]] == [1, 2, 3, 4, 5]
    assert [log for _, _, kind, log in state["told"] if kind == "job.log"] == ["inside"]
    assert state["jobs"] == [{"id": job_id, "status": "completed", "result": {"number": 0}}]


async def test_the_python_client_follows_a_guest_session_without_a_token(
    stack: RunningStack, worker: HandWorker, guest_session: str
) -> None:
    """Every event but log lines; the watch raises when the guest session is closed."""
    timing = Timing(polling_interval=0.5, silence=1, first_silence=0.5)
    told: Told = []
    async with (
        official(stack.supabase_url, stack.supabase_publishable_key) as supabase,
        Client(supabase, schema="public").watch_session(guest_session, timing=timing) as watcher,
    ):
        running = asyncio.ensure_future(run_jobs(worker, guest_session))

        async def read() -> None:
            async for event in watcher:
                told.append((event.job_id, event.seq, event.type))
                if sum(kind == "job.completed" for _, _, kind in told) == 3:
                    with stack.connect() as sql:
                        sql.execute("select public.close_guest_session(%s)", (guest_session,))

        with pytest.raises(QueueError, match="no such session"):
            await asyncio.wait_for(read(), SECONDS)
        await running

    assert sorted(told) == written(stack, guest_session)


async def test_a_guest_joins_the_guest_session_and_no_other_topic(
    stack: RunningStack,
    worker: HandWorker,
    guest_session: str,
    room: Callable[[], None],
    connect: Open,
) -> None:
    """Not the job, the workspace, another guest session, nor a user's."""
    owned = opened(stack, worker, user_id=str(EVE.id))
    [job_id] = await run_jobs(worker, guest_session, 1)
    await run_jobs(worker, owned, 1)
    closed = [
        f"job:{job_id}", f"workspace:{worker.workspace_id}", f"session:{guest_session[:-1]}",
        f"session:{guest_session}0", "session:visit_%", "session:guest_", f"session:{owned}",
    ]  # fmt: skip
    socket = await connect()

    for topic in closed:
        for token in (None, stack.token(None, "anon")):
            refused = await socket.join(topic, access_token=token, private=True)
            assert refused["response"]["reason"].startswith("Unauthorized: "), (topic, refused)
    await socket.joined(f"session:{guest_session}", private=True)
    by_name = await connect()
    await by_name.joined(f"session:{owned}", access_token=stack.sign_in(EVE.email), private=True)
    await asyncio.to_thread(room)
    [heard] = await run_jobs(worker, guest_session, 1)
    [owns] = await run_jobs(worker, owned, 1)

    once = ["job.created", "job.leased", "job.progress", "job.completed"]
    assert await kinds_of(socket, heard) == await kinds_of(by_name, owns) == once


async def kinds_of(socket: Socket, job_id: str) -> list[str]:
    """What is heard of a job until its end; earlier jobs' events may still have been on the way."""
    kinds: list[str] = []
    while "job.completed" not in kinds:
        event = (await socket.expect("broadcast", seconds=SECONDS))["payload"]["payload"]
        if event["job_id"] == job_id:
            kinds.append(event["type"])
    return kinds


async def ends(url: str, session: str, kinds: list[str], **headers: str) -> tuple[int, str | None]:
    """Read a session's stream to its end, noting types: status, and why it ended."""
    kind = ""
    async with (
        asyncio.timeout(SECONDS),
        httpx.AsyncClient(base_url=url, timeout=SECONDS) as client,
        client.stream(
            "GET",
            f"/api/sessions/{session}/events",
            headers={"accept": "text/event-stream", **headers},
        ) as answer,
    ):
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind == "end":
                return answer.status_code, json.loads(value)["reason"]
            elif name == "data":
                kinds.append(kind)
    return answer.status_code, None


async def test_a_guest_session_streams_to_its_holders_until_it_is_closed(
    stack: RunningStack, worker: HandWorker, guest_session: str
) -> None:
    """By server-sent events without a token; each other session asks for one."""
    before = await run_jobs(worker, guest_session, 1)
    kinds: list[str] = []
    reading = asyncio.ensure_future(ends(stack.api_url, guest_session, kinds))
    foreign = stack.sign_in(EVE.email)
    for session, headers, status in (
        ("s-plain", {}, 401),
        (guest_session[:-1], {}, 404),
        (guest_session, {"authorization": "Bearer garbage"}, 401),
        (opened(stack, worker, user_id=str(ADA.id)), {}, 404),
        (opened(stack, worker, user_id=str(ADA.id)), {"authorization": f"Bearer {foreign}"}, 404),
    ):
        assert (await ends(stack.api_url, session, [], **headers))[0] == status, session

    await run_jobs(worker, guest_session, 1)
    async with httpx.AsyncClient(base_url=stack.api_url, timeout=SECONDS) as client:
        page = (await client.get(f"/api/sessions/{guest_session}/events")).json()
    once = ["job.created", "job.leased", "job.progress", "job.completed"]
    async with asyncio.timeout(SECONDS):
        while len(kinds) < 2 * len(once):  # noqa: ASYNC110 - what is told after the close is not told
            await asyncio.sleep(0.05)
    with stack.connect() as sql:
        sql.execute("select public.close_guest_session(%s)", (guest_session,))
    status, reason = await reading

    assert (status, reason) == (200, "gone")
    assert kinds == once * 2 == [event["type"] for event in page["events"]]
    assert before[0] == page["events"][0]["job_id"]


async def test_where_anonymous_use_is_off_the_api_asks_for_a_token(
    stack: RunningStack, worker: HandWorker, guest_session: str
) -> None:
    """The stage decides, whatever the database would allow."""
    await run_jobs(worker, guest_session, 1)
    settings = Settings.from_env({**stack.values, "ALLOW_ANONYMOUS": "false"})
    app = build_app(settings)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://status") as client:
        path = f"/api/sessions/{guest_session}/events"
        nobody = await client.get(path)
        somebody = await client.get(path, headers=stack.headers(stack.sign_in(EVE.email)))
    await app.state.services.aclose()

    assert (nobody.status_code, somebody.status_code) == (401, 200)
