"""The Postgres sessions of a running attempt, found in the attempt's stack."""

import asyncio
from functools import partial

import psycopg

from minutehand.worker.stacks import database_sessions
from tests.support.engine import Engine
from tests.support.patience import until


async def test_the_session_of_a_processors_query_is_found(engine: Engine) -> None:
    """The worker finds the session of a query, and other connections that the processor opened."""
    engine.run("select pg_advisory_lock(7)")

    async def process() -> list[int]:
        async with (
            await psycopg.AsyncConnection.connect(engine.database.url) as one,
            await psycopg.AsyncConnection.connect(engine.database.url) as other,
        ):
            await one.execute("select pg_advisory_lock(7)")
            return [one.info.backend_pid, other.info.backend_pid]

    task = asyncio.create_task(process())
    sessions = await asyncio.to_thread(until, partial(database_sessions, task, ""))
    engine.run("select pg_advisory_unlock(7)")
    assert sessions == await task
    assert database_sessions(task, "") == []
