"""Those who may not see a job get nothing of it: by join, Postgres Changes or stream."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from minutehand.local.users import ADA, BOB, EVE
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.conftest import Open
from tests.integration.realtime.support import Socket
from tests.support.stacks import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.usefixtures("room")]


@pytest.fixture
def worker(stack: RunningStack, worker: HandWorker) -> HandWorker:
    """Of a workspace that is Ada's and Bob's."""
    with stack.connect() as sql:
        sql.execute(
            "insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'member')",
            (worker.workspace_id, BOB.id),
        )
    return worker


def topics(worker: HandWorker, job_id: str, session: str) -> list[str]:
    return [f"job:{job_id}", f"workspace:{worker.workspace_id}", f"session:{session}"]


async def started(worker: HandWorker, session: str) -> tuple[str, dict[str, Any]]:
    """A running job of a session."""
    job_id = await asyncio.to_thread(worker.enqueue, {"secret": "x"}, session_id=session)
    [lease] = await asyncio.to_thread(worker.lease)
    return job_id, lease


async def test_members_join_every_topic_of_their_job_and_strangers_none(
    stack: RunningStack, worker: HandWorker, connect: Open
) -> None:
    """For the job, its workspace and its session."""
    session = f"s-{uuid4()}"
    job_id, lease = await started(worker, session)
    member, stranger = await connect(), await connect()

    for topic in topics(worker, job_id, session):
        ok = await member.join(topic, access_token=stack.sign_in(BOB.email), private=True)
        assert ok["status"] == "ok", ok
        for token in (stack.sign_in(EVE.email), None, stack.token(None, "anon")):
            refused = await stranger.join(topic, access_token=token, private=True)
            assert refused["response"]["reason"].startswith("Unauthorized: "), refused

    kinds: list[str] = []
    while "job.events" not in kinds:  # its progress and its log line, behind what was on its way
        await asyncio.to_thread(worker.report, lease, 50, "for members only")
        with suppress(TimeoutError):  # not sent: other jobs of the stack had the budget
            while "job.events" not in kinds:
                frame = await member.expect("broadcast", topic=f"realtime:job:{job_id}", seconds=5)
                kinds.append(frame["payload"]["event"])
    assert set(kinds) <= {"job.created", "job.leased", "job.events"}
    await stranger.silence()


async def test_public_rooms_of_the_same_names_stay_empty(worker: HandWorker, connect: Open) -> None:
    """A public channel of a private topic's name is another room."""
    session = f"s-{uuid4()}"
    job_id, lease = await started(worker, session)
    socket = await connect()
    for topic in topics(worker, job_id, session):
        await socket.joined(topic)

    await asyncio.to_thread(worker.report, lease, 50, "not here")
    await asyncio.to_thread(worker.settle, lease)

    await socket.silence(1)


async def test_a_member_cannot_speak_on_a_topic_of_events(
    stack: RunningStack, worker: HandWorker, connect: Open
) -> None:
    """What a watcher hears comes from the database, not from another member."""
    job_id, _ = await started(worker, f"s-{uuid4()}")
    forger, listener = await connect(), await connect()
    for socket, who in ((forger, ADA), (listener, BOB)):
        await socket.joined(f"job:{job_id}", access_token=stack.sign_in(who.email), private=True)

    forged = {"job_id": job_id, "seq": 99, "type": "job.completed", "data": {}}
    await forger.broadcast(f"job:{job_id}", "job.completed", forged)
    async with httpx.AsyncClient(base_url=stack.supabase_url) as client:
        answer = await client.post(
            "/realtime/v1/api/broadcast",
            headers=stack.headers(stack.sign_in(ADA.email)),
            json={
                "messages": [
                    {"topic": f"job:{job_id}", "event": "e", "payload": forged, "private": True}
                ]
            },
        )

    assert answer.status_code == 202
    heard = await everything(listener, "broadcast")  # real events may still be on their way
    assert [frame for frame in heard if frame["payload"]["payload"]["seq"] == 99] == []


async def test_postgres_changes_show_rows_to_members_only(
    stack: RunningStack, worker: HandWorker, connect: Open
) -> None:
    """Issue 5: the same by Postgres Changes, of jobs and of their logs."""
    sockets: dict[str, Socket] = {}
    entries = [{"event": "*", "schema": "public", "table": name} for name in ("jobs", "job_logs")]
    for name, token in (
        ("member", stack.sign_in(BOB.email)),
        ("stranger", stack.sign_in(EVE.email)),
        ("nobody", None),
    ):
        sockets[name] = socket = await connect()
        await socket.joined(f"rows-{name}", access_token=token, postgres_changes=entries)
        system = await socket.expect("system")
        assert system["payload"]["status"] == "ok", system

    job_id, lease = await started(worker, f"s-{uuid4()}")
    await asyncio.to_thread(worker.report, lease, 50, "for members only")
    await asyncio.to_thread(worker.settle, lease)

    seen: set[tuple[str, str]] = set()
    while ("jobs", "completed") not in seen or ("job_logs", "") not in seen:
        data = (await sockets["member"].expect("postgres_changes"))["payload"]["data"]
        if data["record"].get("id") == job_id or data["record"].get("job_id") == job_id:
            seen.add((data["table"], data["record"].get("status", "")))
    for name in ("stranger", "nobody"):
        for frame in await everything(sockets[name], "postgres_changes"):
            # a role that may not read the table learns that it may not, and nothing more
            assert frame["payload"]["data"].get("record", {}) == {}
            assert frame["payload"]["data"]["errors"] == ["Error 401: Unauthorized"]


async def everything(socket: Socket, event: str) -> list[dict[str, Any]]:
    """All frames of an event that arrive until it is quiet."""
    frames = []
    try:
        while True:
            frames.append(await socket.expect(event, seconds=1))
    except TimeoutError:
        return frames


async def test_streams_of_foreign_jobs_do_not_exist(
    stack: RunningStack, worker: HandWorker
) -> None:
    """Issue 5: by server-sent events, for strangers, nobody and expired tokens."""
    job_id, _ = await started(worker, f"s-{uuid4()}")
    paths = [f"/api/jobs/{job_id}/events", f"/api/workspaces/{worker.workspace_id}/events"]
    tokens = {
        stack.sign_in(EVE.email): 404,
        stack.token(str(ADA.id), expires_in=-60): 401,
        "garbage": 401,
    }

    async with httpx.AsyncClient(base_url=stack.api_url) as client:
        for path in paths:
            for token, status in tokens.items():
                headers = {"accept": "text/event-stream", "authorization": f"Bearer {token}"}
                answer = await client.get(path, headers=headers)
                assert answer.status_code == status, (path, answer.text)


async def test_expired_tokens_are_refused_at_every_endpoint(
    stack: RunningStack, worker: HandWorker, connect: Open
) -> None:
    """Issue 5: as a key at the handshake, and as a token of a join."""
    job_id, _ = await started(worker, f"s-{uuid4()}")
    expired = stack.token(str(ADA.id), expires_in=-60)
    socket = await connect()

    reply = await socket.join(f"job:{job_id}", access_token=expired, private=True)
    with pytest.raises(InvalidStatus) as refused:
        await connect(expired)

    assert "Token has expired" in reply["response"]["reason"]
    assert refused.value.response.status_code == 401


async def test_a_removed_member_is_out_at_the_next_refresh_and_join(
    stack: RunningStack, worker: HandWorker, connect: Open
) -> None:
    """Issue 5: removal takes effect within the token's life and on re-join at once."""
    job_id, lease = await started(worker, f"s-{uuid4()}")
    socket, topic = await connect(), f"job:{job_id}"
    await socket.joined(topic, access_token=stack.token(str(BOB.id)), private=True)
    with stack.connect() as sql:
        sql.execute(
            "delete from public.workspace_members where workspace_id = %s and user_id = %s",
            (worker.workspace_id, BOB.id),
        )

    fresh = stack.token(str(BOB.id), expires_in=900)
    await socket.push(f"realtime:{topic}", "access_token", {"access_token": fresh})
    system = await socket.expect("system")
    await socket.expect("phx_close")
    rejoin = await socket.join(topic, access_token=fresh, private=True)
    await asyncio.to_thread(worker.report, lease, 50, "without Bob")

    assert system["payload"]["message"].startswith("You do not have permissions to read")
    assert rejoin["response"]["reason"].startswith("Unauthorized: ")
    # the topic was his when it was created and leased, and news of that may have been on the way
    heard = [*socket.pending, *await everything(socket, "broadcast")]
    kinds = {frame["payload"]["event"] for frame in heard if frame["event"] == "broadcast"}
    assert kinds <= {"job.created", "job.leased"}
