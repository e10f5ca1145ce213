"""Rows of own tables: which are named, for which job, and what is repeated."""

from __future__ import annotations

import json

import httpx
import pytest

from minutehand.config import ConfigurationError, Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueUnavailable
from minutehand.queue.functions import WorkerFunctions
from minutehand.queue.tables import Table


class Project:
    """A Data API that keeps what it was sent; it fails at first if told to."""

    def __init__(self, *, failures: int = 0, settings: Settings | None = None) -> None:
        self.failures = failures
        self.requests: list[httpx.Request] = []
        settings = settings or Settings(
            supabase_url="http://127.0.0.1:1",
            supabase_publishable_key="sb_publishable_x",
            supabase_worker_key="key",
        )
        api = DataApi("http://127.0.0.1:1", transport=httpx.MockTransport(self._answer))
        functions = WorkerFunctions(settings, api=api)
        self.table = Table(functions, "accounts", schema="crm", job_id="j", fence=7)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        failed = len(self.requests) <= self.failures
        return httpx.Response(503 if failed else 200, json=[{"id": 1}])


async def test_rows_are_named_and_the_job_with_them() -> None:
    """The policy asks for the job's lease by these headers; null is no value that equals."""
    project = Project()

    await project.table.update({"name": "x"}, id=1, closed_at=None)

    [sent] = project.requests
    assert (sent.method, sent.url.path) == ("PATCH", "/rest/v1/accounts")
    assert dict(sent.url.params) == {"id": "eq.1", "closed_at": "is.null"}
    assert json.loads(sent.content) == {"name": "x"}
    names = ("x-job-id", "x-job-fence", "content-profile", "authorization", "prefer")
    whole = "return=representation"
    assert [sent.headers[name] for name in names] == ["j", "7", "crm", "Bearer key", whole]
    assert await project.table.insert({"name": "y"}) == {"id": 1}


async def test_rows_are_chosen_ordered_and_bounded() -> None:
    project = Project()

    await project.table.select("id,name", order="name.asc", limit=5, tier="gold")
    await project.table.select()
    await project.table.select(balance=0)

    chosen, usual, empty = ({**dict(each.url.params)} for each in project.requests)
    assert empty["balance"] == "eq.0", "not null"
    assert chosen == {"select": "id,name", "order": "name.asc", "limit": "5", "tier": "eq.gold"}
    assert usual == {"select": "*", "limit": "1000"}


async def test_a_worker_with_the_projects_secret_key_reaches_no_table() -> None:
    """No policy binds that key: every tenant's rows would be the job's."""
    settings = Settings(
        supabase_url="http://127.0.0.1:1",
        supabase_publishable_key="sb_publishable_x",
        supabase_secret_key="sb_secret_x",
    )
    project = Project(settings=settings)

    with pytest.raises(ConfigurationError, match="SUPABASE_WORKER_KEY"):
        await project.table.select()

    assert project.requests == []


async def test_a_change_without_a_condition_is_refused() -> None:
    """It would be one of every row of the tenant."""
    project = Project()

    with pytest.raises(ValueError, match="name the rows"):
        await project.table.delete()
    with pytest.raises(ValueError, match="name the rows"):
        await project.table.update({"name": "x"})

    assert project.requests == []


async def test_an_insert_that_may_have_arrived_is_not_repeated() -> None:
    """The row would be there twice; reads and changes of named rows are repeated."""
    project = Project(failures=1)
    with pytest.raises(QueueUnavailable):
        await project.table.insert({"name": "x"})
    assert len(project.requests) == 1

    project = Project(failures=1)
    assert await project.table.delete(id=1) == [{"id": 1}]
    assert len(project.requests) == 2
