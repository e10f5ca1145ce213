"""A worker's calls meet a Data API that is just starting, and answers without end."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import httpx
import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.functions import CallerFunctions, FunctionStore, WorkerFunctions

SETTINGS = Settings(
    supabase_url="https://project.example",
    supabase_publishable_key="sb_publishable_x",
    supabase_jwt_secret="a-test-secret-of-at-least-32-characters",
)


def functions(code: str) -> WorkerFunctions:
    """A worker's functions before a Data API that answers each call with 404 and this code."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(404, json={"code": code, "message": "no such function"})

    api = DataApi("https://project.example", transport=httpx.MockTransport(answer))
    return WorkerFunctions(SETTINGS, api=api)


async def test_a_function_missing_for_a_moment_is_an_outage() -> None:
    """While it reads the schema a Data API knows no function: the settle is repeated, not lost."""
    worker = functions("PGRST202")

    with pytest.raises(QueueUnavailable) as raised:
        await worker.call("settle_jobs", {"p_request": {}}, attempts=1)

    await worker.aclose()
    assert (raised.value.code, raised.value.status) == ("PGRST202", 404)


@pytest.mark.parametrize(("schema", "named"), [(None, "public"), ("work", "work")])
async def test_functions_are_where_clients_see_jobs_or_in_a_schema_of_their_own(
    schema: str | None, named: str
) -> None:
    worker = WorkerFunctions(SETTINGS, schema=schema)

    headers = worker._api._http.headers
    assert (headers["accept-profile"], headers["content-profile"]) == (named, named)
    await worker.aclose()
    assert worker._api._http.is_closed
    store = FunctionStore(SETTINGS)
    await store.aclose()
    assert store._functions._api._http.is_closed


async def test_a_call_is_tried_as_often_as_it_says() -> None:
    project = Project({}, status=503)
    worker = WorkerFunctions(SETTINGS, api=project.api)

    with pytest.raises(QueueUnavailable):
        await worker.call("settle_jobs", {}, attempts=1)

    assert len(project.requests) == 1


async def test_another_refusal_is_none() -> None:
    """What the queue refuses by name is not repeated for ever."""
    worker = functions("PGRST116")

    with pytest.raises(QueueError) as raised:
        await worker.call("settle_jobs", {"p_request": {}}, attempts=1)

    await worker.aclose()
    assert not isinstance(raised.value, QueueUnavailable)


async def test_a_key_that_was_refused_is_made_again_once() -> None:
    """The clocks may differ, or a secret was rotated; a second refusal is the caller's."""
    clock = FrozenClock()
    tokens: list[str] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        tokens.append(request.headers["Authorization"])
        clock.advance(seconds=1)
        return httpx.Response(401, json={"code": "PGRST301", "message": "JWT expired"})

    api = DataApi("https://project.example", transport=httpx.MockTransport(refuse))
    worker = WorkerFunctions(SETTINGS, api=api, clock=clock)

    with pytest.raises(TokenRefused):
        await worker.call("settle_jobs", {"p_request": {}})

    await worker.aclose()
    assert len(tokens) == len(set(tokens)) == 2


class Project:
    """A Data API that answers everything with `answer`, and keeps what it was sent."""

    def __init__(self, answer: Any, *, status: int = 200) -> None:
        self.answer, self.status = answer, status
        self.requests: list[httpx.Request] = []
        self.api = DataApi("https://project.example", transport=httpx.MockTransport(self._reply))

    def _reply(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self.status, json=self.answer)

    def caller(self, token: str | None) -> CallerFunctions:
        async def signed() -> dict[str, str]:
            return {"x-from": "here"}

        return CallerFunctions(self.api, SETTINGS, token=token, signed=signed)


async def test_a_callers_functions_are_called_by_the_names_of_their_parameters() -> None:
    """With the caller's own token; a guest says from where it calls instead."""
    project = Project({"n": 1})

    assert await project.caller("jwt").call("ask", question="q") == {"n": 1}
    assert await project.caller(None).call("ask") == {"n": 1}

    user, guest = project.requests
    assert (user.url.path, json.loads(user.content)) == ("/rest/v1/rpc/ask", {"p_question": "q"})
    assert (user.headers["authorization"], "x-from" in user.headers) == ("Bearer jwt", False)
    assert ("authorization" in guest.headers, guest.headers["x-from"]) == (False, "here")
    assert guest.headers["apikey"] == "sb_publishable_x"


async def test_the_workspace_that_is_named_or_the_only_one_is_found() -> None:
    """As its caller, whose it must be."""
    project = Project({"workspace_id": str(UUID(int=7))})

    for named in (UUID(int=7), None):
        assert await project.caller("jwt").workspace(named) == UUID(int=7)

    assert [json.loads(sent.content) for sent in project.requests] == [
        {"p_workspace_id": str(UUID(int=7))}, {"p_workspace_id": None},
    ]  # fmt: skip
    assert {sent.headers["authorization"] for sent in project.requests} == {"Bearer jwt"}


async def test_a_callers_rows_are_read_with_their_token() -> None:
    project = Project([{"id": 1}])

    assert await project.caller("jwt").select("things", ("id", "eq.1")) == [{"id": 1}]

    [sent] = project.requests
    assert (sent.url.path, dict(sent.url.params)) == ("/rest/v1/things", {"id": "eq.1"})
    assert sent.headers["authorization"] == "Bearer jwt"


async def test_what_may_have_an_effect_is_sent_once_if_its_caller_says_so() -> None:
    """A 503 may come after it was done."""
    for repeatable in (True, False):
        project = Project({}, status=503)
        with pytest.raises(QueueUnavailable):
            await project.caller("jwt").call("ask", repeatable=repeatable)
        assert (len(project.requests) > 1) is repeatable
        project = Project({}, status=503)
        worker = WorkerFunctions(SETTINGS, api=project.api)
        with pytest.raises(QueueUnavailable):
            await worker.call("do", {}, repeatable=repeatable)
        assert (len(project.requests) > 1) is repeatable
    project = Project({}, status=503)
    with pytest.raises(QueueUnavailable):
        await project.caller("jwt").workspace(None)
    assert len(project.requests) > 1


async def test_an_apps_store_closes_its_connections() -> None:
    store = FunctionStore(SETTINGS)
    await store.aclose()

    with pytest.raises((QueueUnavailable, RuntimeError)):
        await store._functions.call("do", {}, attempts=1)
