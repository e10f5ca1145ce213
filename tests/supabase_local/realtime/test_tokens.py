"""The token of a Realtime channel is replaced, expires, or loses rights."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from tests.supabase_local.realtime.support import ADA, Socket, token, unique


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
    return str(system["payload"]["message"])


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
    sql.execute("delete from public.rt_rights where topic = %s", [topic])

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
