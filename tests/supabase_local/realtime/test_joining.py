"""Handshakes, joining and leaving a Realtime topic, its rights, and the channel's token."""

import time
from typing import Any

import httpx
import psycopg
import pytest

from tests.supabase_local.realtime.support import ADA, EVE, Server, Socket, token, unique

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "API key is missing"),
        ("garbage", "The token provided is not a valid JWT"),
        ("sb_publishable_of_another_project", "The token provided is not a valid JWT"),
        (token()[:-4] + "AAAA", "Failed to validate JWT signature"),
        (token(seconds=-60), "Token has expired"),
        (token(exp=None), "Fields `role` and `exp` are required in JWT"),
    ],
)
def test_a_bad_key_is_refused_with_401_and_says_why(
    server: Server, key: str | None, message: str
) -> None:
    """A handshake with a bad key gets a plain HTTP response 401 with a reason in JSON."""
    url = server.websocket_url(key=key).replace("ws://", "http://")

    answer = httpx.get(url, headers=UPGRADE)

    assert (answer.status_code, answer.json()) == (401, {"error": message})


def refusal(topic: str) -> str:
    return f"Unauthorized: You do not have permissions to read from this Channel topic: {topic}"


@pytest.mark.parametrize("version", [1, 2])
async def test_a_policy_lets_its_user_join_and_no_one_else(
    connect: Any, grant: Any, version: int
) -> None:
    """A policy with realtime.topic() and auth.uid() lets its user join a private topic.

    Other users are rejected.
    """
    socket, topic = await connect(version=version), unique()
    grant(topic, ADA)

    mine = await socket.join(topic, access_token=token(ADA), private=True)
    other = await socket.join(topic, access_token=token(EVE), private=True)
    signed_out = await socket.join(topic, private=True)

    assert mine["status"] == "ok"
    assert other["response"] == signed_out["response"] == {"reason": refusal(topic)}


async def test_leaving_is_answered_then_closed_with_the_joins_ref(connect: Any) -> None:
    """A client that leaves a topic gets a reply and then a close with the ref of its join."""
    socket, other, topic = await connect(), await connect(), unique()
    join_ref = await socket.joined(topic)
    await other.joined(topic)

    ref = await socket.push(f"realtime:{topic}", "phx_leave", {}, join_ref=join_ref)
    reply, close = await socket.receive(), await socket.receive()
    await other.broadcast(topic, "after", {})

    assert (reply["event"], reply["ref"], reply["payload"]["status"]) == ("phx_reply", ref, "ok")
    assert (close["event"], close["ref"], close["join_ref"]) == ("phx_close", join_ref, join_ref)
    await socket.silence()
    again = await socket.push(f"realtime:{topic}", "phx_leave", {})
    assert (await socket.reply_to(again)) == {"status": "ok", "response": {}}
    await socket.joined(topic)


async def test_joining_twice_closes_the_first_instance(connect: Any) -> None:
    """A client that joins a topic twice gets each message once.

    The first join is closed after the second was accepted.
    """
    socket, other, topic = await connect(), await connect(), unique()
    first = await socket.joined(topic)
    await other.joined(topic)

    await socket.push(f"realtime:{topic}", "phx_join", {"config": {}}, join_ref="88", ref="88")
    reply, close = await socket.receive(), await socket.receive()
    await other.broadcast(topic, "once", {"n": 1})

    assert (close["event"], close["ref"]) == ("phx_close", first)
    assert (reply["event"], reply["ref"]) == ("phx_reply", "88")
    assert (await socket.expect("broadcast"))["payload"]["payload"] == {"n": 1}
    await socket.silence()


MALFORMED = ["", "garbage", "null", "[1,2,3]", "[" * 100_000, b"", b"\x09" * 40]


@pytest.mark.parametrize("version", [1, 2])
async def test_malformed_frames_are_dropped_and_the_socket_stays(
    connect: Any, version: int
) -> None:
    """The server ignores malformed frames, and the socket and its channels stay open."""
    socket, other, topic = await connect(version=version), await connect(), unique()
    await socket.joined(topic, broadcast={"self": True})
    await other.joined(topic)

    for data in MALFORMED:
        await socket.send_raw(data)
    await socket.silence()
    await socket.broadcast(topic, "fine", {})

    assert (await socket.expect("broadcast"))["payload"]["event"] == "fine"
    assert (await other.expect("broadcast"))["payload"]["event"] == "fine"


async def test_a_topic_that_no_one_can_join_is_answered(connect: Any) -> None:
    """A join whose topic is not a string gets an error reply."""
    socket = await connect()

    for topic in (7, "elsewhere"):
        reply = await socket.reply_to(await socket.push(topic, "phx_join", {}))
        assert reply == {"status": "error", "response": {"reason": "unmatched topic"}}


async def refresh(socket: Socket, topic: str, value: Any) -> None:
    await socket.push(f"realtime:{topic}", "access_token", {"access_token": value})


async def ended(socket: Socket, topic: str, join_ref: str) -> str:
    """Wait until the channel ends, and return the reason. The socket must stay open."""
    system = await socket.expect("system")
    close = await socket.expect("phx_close")
    assert system["payload"]["extension"] == "system"
    assert system["payload"]["status"] == "error"
    assert system["payload"]["channel"] == topic
    assert (close["topic"], close["ref"], close["payload"]) == (f"realtime:{topic}", join_ref, {})
    assert await socket.is_alive()
    return system["payload"]["message"]


async def test_a_removed_member_is_out_at_the_next_refresh(
    connect: Any, grant: Any, sql: psycopg.Connection[Any]
) -> None:
    """A user who loses the right to a topic is removed at the next token refresh.

    A new join is rejected immediately.
    """
    socket, topic = await connect(), unique()
    grant(topic, ADA)
    join_ref = await socket.joined(topic, access_token=token(ADA), private=True)
    await refresh(socket, topic, token(ADA, seconds=5400))
    sql.execute("select realtime.send('{}', 'still here', %s)", [topic])
    assert (await socket.expect("broadcast"))["payload"]["event"] == "still here"
    sql.execute("delete from rt_rights where topic = %s", [topic])

    await refresh(socket, topic, token(ADA, seconds=7200))

    assert await ended(socket, topic, join_ref) == (
        f"You do not have permissions to read from this Channel topic: {topic}"
    )
    rejoin = await socket.join(topic, access_token=token(ADA), private=True)
    assert rejoin["status"] == "error"


@pytest.mark.parametrize("private", [True, False])
async def test_a_channel_ends_when_its_token_expires(
    connect: Any, grant: Any, private: bool
) -> None:
    """A channel whose token expires ends, and the socket stays open."""
    socket, topic = await connect(), unique()
    grant(topic, ADA)
    life, reply = 1, {"status": "error"}
    while reply["status"] == "error":  # on a busy machine the token expires before the join
        life *= 2
        exp = int(time.time()) + life
        reply = await socket.join(topic, access_token=token(ADA, exp=exp), private=private)

    assert (await ended(socket, topic, reply["join_ref"])).startswith("Token has expired ")
    assert time.time() >= exp
