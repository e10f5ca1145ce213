"""A worker's calls to a Data API that is starting, and responses without end."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from minutehand.clock import FrozenClock
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import ProcessorError, QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.models import JobId
from minutehand.queue.worker_client import MAX_STEP_BYTES, WorkerQueue
from tests.support.queue_model import SETTINGS


class Project:
    """A Data API that returns `answers` in order, and repeats the last one."""

    def __init__(self, *answers: Any, status: int = 200) -> None:
        self.answers = list(answers)
        self.status = status
        self.clock = FrozenClock()
        self.requests: list[httpx.Request] = []
        api = DataApi("https://project.example", transport=httpx.MockTransport(self._reply))
        self.worker = WorkerQueue(SETTINGS, api=api, clock=self.clock)

    def _reply(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.clock.advance(seconds=1)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx.Response(self.status, json=answer)


@pytest.mark.parametrize(("code", "is_outage"), [("PGRST202", True), ("PGRST116", False)])
async def test_a_function_missing_for_a_moment_is_an_outage(code: str, is_outage: bool) -> None:
    """While the Data API reads the schema, it knows no function. The settle is repeated."""
    project = Project({"code": code, "message": "no such function"}, status=404)

    with pytest.raises(QueueError) as raised:
        await project.worker.settle([])

    assert isinstance(raised.value, QueueUnavailable) is is_outage


async def test_a_key_that_was_refused_is_made_again_once() -> None:
    """The first token may be rejected because clocks differ or a secret was rotated.

    A second rejection is an error.
    """
    project = Project({"code": "PGRST303", "message": "JWT expired"}, status=401)

    with pytest.raises(TokenRefused):
        await project.worker.settle([])

    tokens = [request.headers["Authorization"] for request in project.requests]
    assert len(tokens) == len(set(tokens)) == 2


async def test_steps_that_do_not_fit_a_worker_are_read_no_further() -> None:
    """Each page is small, but together they would use up the memory of other jobs."""
    page = {"bytes": MAX_STEP_BYTES * 2 // 5, "lines": [], "next": {"name": "s"}}
    project = Project(page)

    with pytest.raises(ProcessorError, match="must not exceed 64000000 bytes"):
        await project.worker.read_steps(JobId("j"), 1)

    assert len(project.requests) == 3


async def test_the_steps_of_a_job_are_read_page_by_page_with_their_children() -> None:
    """A gather of thousands of children needs more than one page."""
    place = {"name": "gather", "nth": 1}
    first = [
        {"nth": 0, "name": "a", "value": 1},
        {"nth": 0, "name": "gather", "value": {"children": []}},
        {"nth": 1, "name": "gather", "value": {"id": "c1"}},
    ]
    second = [{"nth": 2, "name": "gather", "value": {"id": "c2"}}]
    project = Project(
        {"bytes": 10, "lines": first, "next": place}, {"bytes": 5, "lines": second, "next": None}
    )

    steps = await project.worker.read_steps(JobId("j"), 3)

    assert steps == {"a": 1, "gather": {"children": [{"id": "c1"}, {"id": "c2"}]}}
    sent = [json.loads(request.content)["p_request"] for request in project.requests]
    held = {"job_id": "j", "fence": 3}
    assert sent == [{**held, "after": None}, {**held, "after": place}]
