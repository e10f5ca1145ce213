"""The Postgres session for which a running attempt waits, found in the attempt's stack."""

import asyncio
from functools import partial

import psycopg

from minutehand.worker.stacks import database_session
from tests.support.engine import Engine
from tests.support.patience import until


async def test_the_session_of_a_processors_query_is_found(engine: Engine) -> None:
    """The worker finds the session of a query on a connection that the processor opened itself."""
    engine.run("select pg_advisory_lock(7)")
    async with await psycopg.AsyncConnection.connect(engine.database.url) as connection:
        task = asyncio.create_task(connection.execute("select pg_advisory_lock(7)"))
        session = await asyncio.to_thread(until, partial(database_session, task, ""))
        engine.run("select pg_advisory_unlock(7)")
        await task
        assert session == connection.info.backend_pid
    assert database_session(task, "") is None
