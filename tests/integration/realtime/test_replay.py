"""Past messages for those who join late."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import pytest

from tests.integration.realtime.support import (
    ADA,
    PUBLISHABLE,
    SECRET_KEY,
    JavaScript,
    Server,
    token,
    unique,
)


def a_minute_ago() -> int:
    return int((time.time() - 60) * 1000)


def send(sql: psycopg.Connection[Any], topic: str, count: int, first: int = 1) -> None:
    sql.execute(
        "select realtime.send(jsonb_build_object('n', n), 'n', %s)"
        " from generate_series(%s::int, %s::int) n",
        [topic, first, first + count - 1],
    )


async def sent(connect: Any, sql: psycopg.Connection[Any], topic: str, count: int) -> None:
    """Send and wait until the live delivery is over, so that only a replay can bring them."""
    watcher = await connect(key=SECRET_KEY)
    await watcher.joined(topic, private=True)
    send(sql, topic, count)
    for _ in range(count):
        await watcher.expect("broadcast")


@pytest.mark.parametrize("version", [1, 2])
async def test_the_newest_messages_come_oldest_first(
    connect: Any, sql: psycopg.Connection[Any], version: int
) -> None:
    """Check 21: after the reply, as text, marked as replayed."""
    topic = unique()
    await sent(connect, sql, topic, 10)
    socket = await connect(key=SECRET_KEY, version=version)

    join_ref = await socket.joined(
        topic, private=True, broadcast={"replay": {"since": a_minute_ago(), "limit": 7}}
    )
    got = [await socket.receive() for _ in range(7)]

    assert [frame["payload"]["payload"]["n"] for frame in got] == list(range(4, 11))
    for frame in got:
        assert frame["form"] == f"text{version}"
        assert frame["payload"]["meta"]["replayed"] is True
        assert frame["payload"]["meta"]["id"] == frame["payload"]["payload"]["id"]
        assert frame["ref"] is None
        if version == 2:
            assert frame["join_ref"] == join_ref
    await socket.silence()


async def test_only_messages_since_the_time_are_replayed(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """§6: since is in milliseconds of the epoch."""
    topic = unique()
    await sent(connect, sql, topic, 2)
    socket = await connect(key=SECRET_KEY)

    later = int((time.time() + 30) * 1000)
    await socket.joined(topic, private=True, broadcast={"replay": {"since": later}})

    await socket.silence()


async def test_public_rows_and_other_topics_are_not_replayed(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 21: a private topic's past is its own."""
    topic = unique()
    sql.execute("select realtime.send('{}', 'public', %s, false)", [topic])
    send(sql, f"{topic}x", 1)
    socket = await connect(key=SECRET_KEY)

    await socket.joined(topic, private=True, broadcast={"replay": {"since": a_minute_ago()}})

    await socket.silence()


@pytest.mark.parametrize(
    ("private", "replay", "reason"),
    [
        (False, {"since": 1}, "Replay is not allowed for public channels"),
        (True, {"since": "1"}, "Replay params are not valid"),
        (True, {"since": 1, "limit": 0}, "Replay params are not valid"),
        (True, {"since": 1, "limit": 26}, "Replay params are not valid"),
        (True, {"since": 1.5}, "Replay params are not valid"),
        (True, {}, "Replay params are not valid"),
        (True, [], "Replay params are not valid"),
    ],
)
async def test_a_replay_that_makes_no_sense_refuses_the_join(
    connect: Any, private: bool, replay: Any, reason: str
) -> None:
    """Check 21: the socket stays usable."""
    socket = await connect(key=SECRET_KEY)

    reply = await socket.join(unique(), private=private, broadcast={"replay": replay})

    assert reply["response"] == {"reason": f"UnableToReplayMessages: {reason}"}
    assert await socket.is_alive()


async def test_a_caller_who_may_not_read_gets_no_replay(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Issue 5: neither by join nor by replay."""
    topic = unique()
    await sent(connect, sql, topic, 3)
    socket = await connect()

    reply = await socket.join(
        topic,
        access_token=token(ADA),
        private=True,
        broadcast={"replay": {"since": a_minute_ago()}},
    )

    assert reply["response"]["reason"].startswith("Unauthorized: ")
    await socket.silence()


async def test_nothing_is_lost_or_doubled_between_replay_and_live(
    connect: Any, sql: psycopg.Connection[Any]
) -> None:
    """Check 21: joining while messages are being sent gives each of them once."""
    topic = unique()
    send(sql, topic, 1)
    sockets = [await connect(key=SECRET_KEY) for _ in range(6)]
    config = {"private": True, "broadcast": {"replay": {"since": a_minute_ago(), "limit": 25}}}

    for n, socket in enumerate(sockets):
        ref = f"{n + 50}"
        await socket.push(
            f"realtime:{topic}", "phx_join", {"config": config}, join_ref=ref, ref=ref
        )
        send(sql, topic, 3, first=2 + 3 * n)
    last = 1 + 3 * len(sockets)

    for socket in sockets:
        numbers: list[int] = []
        while last not in numbers:
            frame = await socket.receive()
            if frame["event"] == "broadcast":
                numbers.append(frame["payload"]["payload"]["n"])
        assert numbers == list(range(1, last + 1))
        await socket.silence(0.05)


async def test_the_javascript_client_replays(
    server: Server, js: JavaScript, connect: Any, sql: psycopg.Connection[Any], grant: Any
) -> None:
    """Check 21 with the official client."""
    topic = unique()
    grant(topic, ADA)
    await sent(connect, sql, topic, 3)
    await js.call("client", name="c", url=server.http, key=PUBLISHABLE, token=token(ADA))
    config = {"private": True, "broadcast": {"replay": {"since": a_minute_ago(), "limit": 2}}}
    on = [{"type": "broadcast", "event": "n"}]

    await js.call("subscribe", client="c", channel="c", topic=topic, config=config, on=on)
    got = await js.receive("c", count=2)

    assert [message["payload"]["n"] for message in got] == [2, 3]
    assert all(message["meta"]["replayed"] for message in got)
