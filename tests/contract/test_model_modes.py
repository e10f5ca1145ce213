"""A language model's bad days: each work of chat and plans ends in a result or a sentence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.contract.model_modes import MODES, PYTHON
from tests.integration.chat.conftest import Harness as ChatHarness
from tests.integration.plans.conftest import ANSWERS, OTHERS, POINTS
from tests.integration.plans.conftest import Harness as PlansHarness
from tests.support.harness import AppHarness
from tests.support.project import Project, project_of_a_room
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import KEY, ModelServer

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def project(process_database: Renewed) -> Project:
    """A database behind a Data API that lets guests in, as many as come."""
    made = project_of_a_room(process_database, "allow_anonymous")
    made.sql("update queue.settings set value = 'null' where name ~ 'guest.*per_minute'")
    return made


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The model, which misbehaves as a prompt says in brackets."""
    async with ModelServer() as running:
        running.modes = {name: (mode.faults, mode.forever) for name, mode in MODES.items()}
        running.answers = {
            "decide": {"tier": "async", "type": "write", "title": "A letter"},
            "write": {"text": "Dear Sir or Madam."},
            **ANSWERS,
            **dict.fromkeys(OTHERS, POINTS),
        }
        yield running


@pytest.mark.parametrize("make", [ChatHarness, PlansHarness])
async def test_each_mode_ends_as_it_should(
    project: Project, server: ModelServer, make: Callable[..., AppHarness]
) -> None:
    """No attempt is spent on waiting; no one reads Python's words, or the key."""
    settings = project.settings.model_copy(update={"allow_anonymous": True})
    known = server.known_to(settings.with_environ(ENABLE_ASYNC_WORK="true"))
    async with make(project, known).open() as harness:
        away = {name for name, mode in MODES.items() if mode.ends == "waits"}
        jobs = {await begin(harness, f"Write a letter [mode {name}]"): name for name in MODES}
        rows = await harness.tick_until(
            lambda: look(harness, jobs),
            lambda rows: {jobs[each] for each in rows if rows[each]["finished_at"] is None} <= away,
        )

    wanted = {"result": "completed", "failed": "failed", "waits": "pending"}
    seen = {name: rows[job_id]["status"] for job_id, name in jobs.items()}
    assert seen == {name: wanted[mode.ends] for name, mode in MODES.items()}
    for job_id, name in jobs.items():
        row = rows[job_id]
        said = [row["error_message"], (row["progress"] or {}).get("message")]
        assert not any(KEY in text or PYTHON.search(text) for text in said if text), (name, said)
        if seen[name] == "failed":
            assert len(row["error_message"]) > 20, name
        if seen[name] == "pending":
            assert (row["attempts"], "; it is asked again at " in said[1]) == (0, True), name


async def begin(harness: AppHarness, text: str) -> str:
    """Create a work as a guest; its job's id."""
    if isinstance(harness, PlansHarness):
        body = {"prompt": text, "speed_vs_detail": "fast_but_skip_details"}
        made = (await harness.call("POST", "", user=None, json=body)).json()
        return str(made["job_id"])
    assert isinstance(harness, ChatHarness)
    functions = harness.chat.acting_as(None)
    request = {"text": text}
    session = harness.begin()
    made = await functions.call("chat_request", session_id=session, request=request)
    [row] = harness.project.sql(
        "select job_id::text from public.async_messages where id = %s", made["message_id"]
    )
    return str(row["job_id"])


async def look(harness: AppHarness, jobs: dict[str, str]) -> dict[str, dict[str, Any]]:
    rows = harness.project.sql(
        "select id::text, status, finished_at, attempts, error_message, progress from public.jobs"
        " where id = any (%s::uuid[])",
        list(jobs),
    )
    return {row["id"]: row for row in rows}
