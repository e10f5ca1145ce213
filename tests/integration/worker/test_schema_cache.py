"""The Data API while it cannot read what functions there are: away for a moment, not wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support.project import Project

RESTART = """
select pg_terminate_backend(pid) from pg_stat_activity
where application_name in ('gateway_watch', 'data_api') and datname = current_database()
"""
WATCHES = """
select pid from pg_stat_activity
where application_name = 'gateway_watch' and datname = current_database()
"""


def is_ready(project: Project) -> bool:
    """Whether the Data API says that it answers."""
    return httpx.get(f"{project.settings.supabase_url}/_ready").is_success


@pytest.fixture
def unreadable(project: Project) -> Iterator[None]:
    """A Data API that has to read the catalogue again, which fails."""
    with project.database.connect() as connection:
        name = connection.info.dbname
        # stands before the server's own view of the name, which its introspection reads
        connection.execute("create schema before_all")
        connection.execute("create view before_all.pg_stat_user_tables as select 1 as nothing")
        path = "before_all, pg_catalog, public"
        connection.execute(f"alter database {name} set search_path = {path}".encode())
        connection.execute(RESTART)
        yield
        connection.execute(f"alter database {name} reset search_path".encode())
        connection.execute("drop schema before_all cascade")
        before = connection.execute(WATCHES).fetchall()
        connection.execute(RESTART)
        # the tests after this one share it
        give_up = time.monotonic() + 60
        while set(connection.execute(WATCHES)) <= set(before) or not is_ready(project):
            assert time.monotonic() < give_up, "the Data API did not come back"
            time.sleep(0.05)


async def call(project: Project, client: httpx.AsyncClient) -> httpx.Response:
    """Ask for the queue's health, as an operator."""
    secret = project.settings.supabase_secret_key or ""
    url = f"{project.settings.supabase_url}/rest/v1/rpc/queue_health"
    return await client.post(url, json={}, headers={"apikey": secret})


async def test_a_catalogue_that_cannot_be_read_is_not_an_empty_one(
    project: Project, unreadable: None
) -> None:
    """A caller told that its function does not exist gives up; one told to wait asks again."""
    async with httpx.AsyncClient() as client:
        give_up = time.monotonic() + 60
        # a connection that it has lost may be all that it notices first
        while "PGRST001" not in (await call(project, client)).text:
            assert time.monotonic() < give_up, "the Data API did not notice"
        answers = []
        for _ in range(20):
            answers.append(await call(project, client))
            await asyncio.sleep(0.1)  # for as long as it takes to open a few

    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["code"] for answer in answers} == {"PGRST001"}
