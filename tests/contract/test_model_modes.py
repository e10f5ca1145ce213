"""A language model's bad days: a work ends in a result or a sentence, or waits for the model."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.plans.conftest import ANSWERS, OTHERS, POINTS, Harness
from tests.support.project import Project, project_of_a_room
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import KEY, Fault, ModelServer

pytestmark = pytest.mark.timeout(600)

#: How a job ends, the faults it meets, and whether the last of them comes again and again.
Mode = tuple[str, tuple[Fault, ...], bool]


def refusing(status: int, message: str, **headers: str) -> Fault:
    return Fault(status, {"error": {"message": message}}, headers)


def once(*faults: Fault) -> Mode:
    return ("completed", faults, False)


def always(ends: str, fault: Fault) -> Mode:
    return (ends, (fault,), True)


TOOL = {"content": None, "tool_calls": [{"function": {"name": "search", "arguments": "{}"}}]}
IN_200 = {"error": {"message": "Provider returned error", "code": 429}}
MODES: dict[str, Mode] = {
    # wrapped
    "fence": always("completed", Fault(said=lambda good: f"Sure!\n```json\n{good}\n```\n")),
    "preamble": always("completed", Fault(said=lambda good: f"For {{you}}, 3 of 3:\n{good}")),
    "bom": always("completed", Fault(said=lambda good: f"\ufeff{good}")),
    "think": always("completed", Fault(said=lambda good: f"<think>\n{{}}\n</think>\n{good}")),
    "parts": always("completed", Fault(said=lambda good: [{"type": "text", "text": good}])),
    "members": always("completed", Fault(said=lambda good: f'{good[:-1]}, "more": [1]}}')),
    "usage": always("completed", Fault(answer={"usage": [7]})),
    # wrong
    "no json": always("failed", Fault(said="I cannot.")),
    "broken once": once(Fault(said=lambda good: good[:-1] + ",}")),
    "another shape": always("failed", Fault(said='{"name": 1}')),
    "empty": always("failed", Fault(said="")),
    "no message": always("failed", Fault(answer={"choices": [{"message": None}]})),
    "latin-1 once": once(Fault(body='{"a": "\xe9"}'.encode("latin-1"))),
    "a tool": always("failed", Fault(message=TOOL, finish="tool_calls")),
    # cut
    "length once": once(Fault(said=lambda good: good[: len(good) // 2], finish="length")),
    "length": always("failed", Fault(said=lambda good: good[:9], finish="length")),
    "length, whole": always("completed", Fault(finish="length")),
    "only thought": always("failed", Fault(said=None, message={"content": ""}, finish="length")),
    "cut once": once(Fault(cut=True)),
    "cut": always("pending", Fault(cut=True)),
    "too much": always("failed", Fault(said="x" * 2_100_000)),
    # limited, away
    "429 short once": once(refusing(429, "slow down", **{"Retry-After": "1"})),
    "429": always("pending", refusing(429, "slow down", **{"Retry-After": "20"})),
    "429 without a time": always("pending", refusing(429, "slow down")),
    "429 in 200": always("pending", Fault(body=IN_200)),
    "error in 200": always("failed", Fault(body={"error": "no provider"})),
    "quota": always("failed", Fault(429, {"error": {"code": "insufficient_quota"}})),
    "503 twice": once(refusing(503, "overloaded"), refusing(503, "overloaded")),
    "529": always("pending", refusing(529, "overloaded", **{"Retry-After": "9"})),
    "500 once": once(refusing(500, "out of order")),
    "500": always("failed", refusing(500, "out of order")),
    # refused
    "401": always("failed", refusing(401, f"Incorrect API key provided: {KEY}")),
    "404": always("failed", refusing(404, "no such model")),
    "301": always("failed", Fault(301, b"", {"Location": "/v2"})),
    "context": always("failed", refusing(400, "maximum context length is 8192 tokens")),
    "refusal": always("failed", Fault(message={"refusal": "I will not."})),
    "filter": always("failed", Fault(finish="content_filter")),
}
#: What no person should read: words of Python and of its libraries.
PYTHON = re.compile(
    r"\bError\b|Traceback|validation error|pydantic|None|expected |<class|httpx|line \d"
)


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
        running.modes = {name: (faults, forever) for name, (_, faults, forever) in MODES.items()}
        running.answers = {**ANSWERS, **dict.fromkeys(OTHERS, POINTS)}
        yield running


async def test_each_mode_ends_as_it_should(project: Project, server: ModelServer) -> None:
    """No attempt is spent on waiting; no one reads Python's words, or the key."""
    settings = project.settings.model_copy(update={"allow_anonymous": True})
    async with Harness(project, server.known_to(settings)).open() as harness:
        jobs = {}
        for name in MODES:
            prompt = f"Plan a bakery [mode {name}]"
            body = {"prompt": prompt, "speed_vs_detail": "fast_but_skip_details"}
            made = await harness.call("POST", "", user=None, json=body)
            jobs[made.json()["job_id"]] = name

        async def look() -> dict[str, dict[str, Any]]:
            rows = project.sql(
                "select id::text, status, attempts, error_message, progress from public.jobs"
                " where id = any (%s::uuid[])",
                list(jobs),
            )
            return {jobs[row["id"]]: row for row in rows}

        def are_done(rows: dict[str, dict[str, Any]]) -> bool:
            ended = {name for name in rows if rows[name]["status"] in {"completed", "failed"}}
            return ended >= {name for name, (ends, *_) in MODES.items() if ends != "pending"}

        rows = await harness.tick_until(look, are_done)

    assert {name: rows[name]["status"] for name in MODES} == {
        name: ends for name, (ends, *_) in MODES.items()
    }
    for name, row in rows.items():
        said = [row["error_message"], (row["progress"] or {}).get("message")]
        assert not any(KEY in text or PYTHON.search(text) for text in said if text), (name, said)
        if row["status"] == "failed":
            assert len(row["error_message"]) > 20, name
        if row["status"] == "pending":
            assert (row["attempts"], "; it is asked again at " in said[1]) == (0, True), name
