"""Tokens while a channel lives: refreshed, expired, or carrying fewer rights than before."""

from __future__ import annotations

import re
import time
from typing import Any

import psycopg
import pytest

from tests.integration.realtime.support import (
    ADA,
    EVE,
    PUBLISHABLE,
    JavaScript,
    Server,
    Socket,
    token,
    unique,
)


async def refresh(socket: Socket, topic: str, value: Any) -> None:
    await socket.push(f"realtime:{topic}", "access_token", {"access_token": value})


async def joined_for_moments(socket: Socket, topic: str, private: bool) -> tuple[str, int]:
    """Join with a token of two seconds, or of longer where that was over before it was read.

    Returns:
        The join_ref, and when the token expires.
    """
    for seconds in (2, 4, 8, 16, 32):
        exp = int(time.time()) + seconds
        reply = await socket.join(topic, access_token=token(ADA, exp=exp), private=private)
        if reply["status"] == "ok":
            return str(reply["join_ref"]), exp
        assert "Token has expired" in reply["response"]["reason"], reply
    raise AssertionError("no token was read in time")


async def ended(socket: Socket, topic: str, join_ref: str) -> str:
    """Wait for the channel's end; its reason. The socket must live on."""
    system = await socket.expect("system")
    close = await socket.expect("phx_close")
    assert system["payload"]["extension"] == "system"
    assert system["payload"]["status"] == "error"
    assert system["payload"]["channel"] == topic
    assert (close["topic"], close["ref"], close["payload"]) == (f"realtime:{topic}", join_ref, {})
    assert await socket.is_alive()
    return str(system["payload"]["message"])


async def test_a_refresh_with_the_same_rights_is_silent(connect: Any, grant: Any) -> None:
    """Check 31: never answered, and the channel goes on."""
    socket, other, topic = await connect(), await connect(), unique()
    grant(topic, ADA)
    await socket.joined(topic, access_token=token(ADA), private=True)
    await other.joined(topic, access_token=token(ADA), private=True)

    await refresh(socket, topic, token(ADA, seconds=7200))
    await socket.silence()
    await other.broadcast(topic, "e", {})

    await socket.expect("broadcast")


async def test_a_removed_member_is_out_at_the_next_refresh(
    connect: Any, grant: Any, sql: psycopg.Connection[Any]
) -> None:
    """Issue 5: removal takes effect within the token's life, and on re-join at once."""
    socket, topic = await connect(), unique()
    grant(topic, ADA)
    join_ref = await socket.joined(topic, access_token=token(ADA), private=True)
    sql.execute("delete from public.rt_rights where topic = %s", [topic])

    await refresh(socket, topic, token(ADA, seconds=7200))

    assert await ended(socket, topic, join_ref) == (
        f"You do not have permissions to read from this Channel topic: {topic}"
    )
    rejoin = await socket.join(topic, access_token=token(ADA), private=True)
    assert rejoin["status"] == "error"


async def test_losing_a_part_of_the_rights_ends_it_too(
    connect: Any, grant: Any, sql: psycopg.Connection[Any]
) -> None:
    """§5: another message for presence lost and broadcast kept."""
    socket, topic = await connect(), unique()
    grant(topic, ADA)
    grant(topic, ADA, extension="presence")
    join_ref = await socket.joined(
        topic, access_token=token(ADA), private=True, presence={"enabled": True}
    )
    await socket.expect("presence_state")
    sql.execute("delete from public.rt_rights where topic = %s and extension = 'presence'", [topic])

    await refresh(socket, topic, token(ADA, seconds=7200))

    assert await ended(socket, topic, join_ref) == (
        f"You no longer have permission to read from this Channel topic: {topic}"
    )


async def test_a_refresh_forgets_the_right_to_write(
    connect: Any, grant: Any, sql: psycopg.Connection[Any]
) -> None:
    """§6: cached until the next refresh, asked anew after it."""
    socket, other, topic = await connect(), await connect(), unique()
    grant(topic, ADA)
    for one in (socket, other):
        await one.joined(topic, access_token=token(ADA), private=True)
    await socket.broadcast(topic, "before", {})
    await other.expect("broadcast")

    sql.execute("update public.rt_rights set can_write = false where topic = %s", [topic])
    await socket.broadcast(topic, "cached", {})
    await other.expect("broadcast")
    await refresh(socket, topic, token(ADA, seconds=7200))
    await socket.broadcast(topic, "after", {})

    await other.silence()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("", "The token provided is not a valid JWT"),
        ("garbage", "The token provided is not a valid JWT"),
        (token(exp=None), "Fields `role` and `exp` are required in JWT"),
        (token()[:-4] + "AAAA", ":signature_error"),
        (token(seconds=-5), r"Token has expired \d+ seconds ago"),
    ],
)
async def test_a_bad_token_ends_a_public_channel_too(connect: Any, bad: str, message: str) -> None:
    """§5: public channels verify the token but evaluate no policy."""
    socket, topic = await connect(), unique()
    join_ref = await socket.joined(topic)

    await refresh(socket, topic, bad)

    assert re.fullmatch(message, await ended(socket, topic, join_ref))


@pytest.mark.parametrize("private", [True, False])
async def test_a_channel_ends_when_its_token_expires(
    connect: Any, grant: Any, private: bool
) -> None:
    """Check 32: the socket stays open."""
    socket, topic = await connect(), unique()
    grant(topic, ADA)
    join_ref, exp = await joined_for_moments(socket, topic, private)

    assert (await ended(socket, topic, join_ref)).startswith("Token has expired ")
    assert time.time() >= exp


async def test_a_refresh_in_time_keeps_the_channel(connect: Any, grant: Any) -> None:
    """Check 32: the timer follows the new token."""
    for seconds in (2, 4, 8, 16, 32):  # longer where the first token was over before the refresh
        socket, topic = await connect(), unique()
        grant(topic, ADA)
        exp = int(time.time()) + seconds
        joined = await socket.join(topic, access_token=token(ADA, exp=exp), private=True)
        await refresh(socket, topic, token(ADA))
        assert await socket.is_alive()  # answered after what was sent before
        if joined["status"] == "ok" and time.time() < exp:
            break

    await socket.silence(exp - time.time() + 0.5)


async def test_project_keys_null_and_the_same_token_are_ignored(connect: Any, grant: Any) -> None:
    """Check 32: clients send them on every heartbeat."""
    socket, topic = await connect(), unique()
    grant(topic, ADA)
    mine = token(ADA)
    await socket.joined(topic, access_token=mine, private=True)

    for value in ("sb_publishable_x", None, mine, 7):
        await refresh(socket, topic, value)

    await socket.silence()


async def test_a_refresh_switches_the_claims_of_postgres_changes(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 31: rows of the new user from now on."""
    sql.execute(
        "create table public.owned (id int primary key, owner uuid);"
        "grant select on public.owned to authenticated;"
        "alter table public.owned enable row level security;"
        "create policy mine on public.owned for select using (owner = auth.uid());"
        "alter publication supabase_realtime add table public.owned"
    )
    socket, topic = await connect(), unique()
    entry = {"event": "*", "schema": "public", "table": "owned"}
    await socket.joined(topic, access_token=token(ADA), postgres_changes=[entry])
    await socket.expect("system")

    await refresh(socket, topic, token(EVE))
    again = await socket.expect("system")
    sql.execute("insert into public.owned values (1, %s), (2, %s)", [ADA, EVE])

    assert again["payload"]["message"] == "Subscribed to PostgreSQL"
    assert (await socket.expect("postgres_changes"))["payload"]["data"]["record"]["id"] == 2
    await socket.silence()


async def test_the_javascript_client_refreshes_and_is_closed(
    server: Server, js: JavaScript, connect: Any, grant: Any
) -> None:
    """Checks 31 and 32 with the official client: setAuth keeps, then loses the channel."""
    topic = unique()
    grant(topic, ADA)
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE)
    await js.call("setAuth", client="c", token=token(ADA))
    on = [{"type": "system", "event": "*"}, {"type": "broadcast", "event": "*"}]
    config = {"private": True}
    await js.call("subscribe", client="c", channel="c", topic=topic, config=config, on=on)

    await js.call("setAuth", client="c", token=token(ADA, seconds=7200))
    other = await connect()
    await other.joined(topic, access_token=token(ADA), private=True)
    await other.broadcast(topic, "still here", {})
    await js.receive("c")
    await js.call("setAuth", client="c", token=token(EVE))

    await js.status("c", "CLOSED")
    [system] = js.got("c", "system")
    assert system["message"].startswith("You do not have permissions to read")
