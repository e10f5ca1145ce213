"""Broadcasts that a transaction makes: on commit, in order, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.integration.realtime.support import SECRET_KEY, unique
from tests.support.databases import Database


@pytest.fixture
def transaction(project: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection that commits when told to."""
    with project.connect(autocommit=False) as connection:
        yield connection


@pytest.mark.parametrize("version", [1, 2])
async def test_a_thousand_messages_of_one_transaction_arrive_once_and_in_order(
    connect: Any, transaction: psycopg.Connection[Any], version: int
) -> None:
    """Check 15: none before the commit; the payload's id is the message's."""
    topic = unique()
    socket = await connect(key=SECRET_KEY, version=version)
    await socket.joined(topic, private=True)

    transaction.execute(
        "select realtime.send(jsonb_build_object('n', n), 'n', %s) from generate_series(1, 1000) n",
        [topic],
    )
    await socket.silence()
    transaction.commit()
    got = [(await socket.expect("broadcast"))["payload"] for _ in range(1000)]

    assert [message["payload"]["n"] for message in got] == list(range(1, 1001))
    assert all(message["payload"]["id"] == message["meta"]["id"] for message in got)
    assert len({message["meta"]["id"] for message in got}) == 1000
    await socket.silence()


async def test_a_rolled_back_message_is_never_sent(
    connect: Any, transaction: psycopg.Connection[Any]
) -> None:
    """Check 15: neither by a transaction nor by a savepoint."""
    topic = unique()
    socket = await connect(key=SECRET_KEY)
    await socket.joined(topic, private=True)

    transaction.execute("select realtime.send('{}', 'gone', %s)", [topic])
    transaction.rollback()
    transaction.execute("savepoint s")
    transaction.execute("select realtime.send('{}', 'gone too', %s)", [topic])
    transaction.execute("rollback to savepoint s")
    transaction.execute("select realtime.send('{}', 'kept', %s)", [topic])
    transaction.commit()

    assert (await socket.expect("broadcast"))["payload"]["event"] == "kept"
    await socket.silence()
