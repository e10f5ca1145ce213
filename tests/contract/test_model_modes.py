"""A language model's bad days: each work ends in a result or a sentence, or waits for the model."""

from __future__ import annotations

import re
from typing import Any

import pytest

from minutehand.ai.openai_compatible import OpenAICompatible
from minutehand.config import Settings
from minutehand.worker import Registry
from minutehand_apps.chat import processors as chat
from minutehand_apps.plans import processors as plans
from minutehand_apps.training import processors as training
from tests.integration.plans.conftest import ANSWERS, OTHERS, POINTS
from tests.support.harness import AppHarness
from tests.support.project import project_of_a_file
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import KEY, Fault, ModelServer

pytestmark = pytest.mark.timeout(600)


def said(content: Any, **more: Any) -> Fault:
    return Fault(said=content, **more)


def refusing(status: int, message: str = "out of order", **headers: str) -> Fault:
    return Fault(status, {"error": {"message": message}}, headers)


TOOL = {"content": None, "tool_calls": [{"function": {"name": "search", "arguments": "{}"}}]}
#: What comes again and again, by how a work ends that meets it.
MODES: dict[str, dict[str, Fault]] = {
    "completed": {
        "fence": said(lambda good: f"Sure!\n```json\n{good}\n```\n"),
        "preamble": said(lambda good: f"For {{you}}, 3 of 3:\n{good}"),
        "afterwards": said(lambda good: f"{good}\nHope it {{helps}}!"),
        "bom": said(lambda good: f"\ufeff{good}"),
        "think": said(lambda good: f"<think>\n{{}}\n</think>\n{good}"),
        "parts": said(lambda good: [{"type": "text", "text": good}]),
        "members": said(lambda good: f'{good[:-1]}, "more": [1]}}'),
        "nul": said(lambda good: good.replace("Bak", "\\u0000")),
        "half a pair": said(lambda good: good.replace("Bak", "\\ud800")),
        "usage": Fault(answer={"usage": [7]}),
        "length, whole": Fault(finish="length"),
    },
    "failed": {
        "no json": said("I cannot."),
        "another shape": said('{"name": 1}'),
        "empty": said(""),
        "a number": said(7),
        "deep": said('{"title": ' + "[" * 9000),
        "too much": said("x" * 2_100_000),
        "length": said(lambda good: good[:9], finish="length"),
        "only thought": said(None, message={"content": ""}, finish="length"),
        "a tool": Fault(message=TOOL, finish="tool_calls"),
        "refusal": Fault(message={"refusal": "I will not."}),
        "filter": Fault(finish="content_filter"),
        "no message": Fault(answer={"choices": [{"message": None}]}),
        "error in 200": Fault(body={"error": "no provider"}),
        "nothing": Fault(body=b""),
        "quota": Fault(429, {"error": {"code": "insufficient_quota"}}),
        "context": refusing(400, "maximum context length is 8192 tokens"),
        "301": Fault(301, b"", {"Location": "/v2"}),
        "401": refusing(401, f"Incorrect API key provided: {KEY}"),
        **{str(status): refusing(status) for status in (402, 403, 404, 413, 500)},
        # what may have been charged is asked for five times
        "hangs": Fault(hang=True),
        "drips": Fault(drips=True),
        "cut": Fault(cut=True),
        **{str(status): refusing(status) for status in (408, 504)},
    },
    "pending": {
        "429": refusing(429, **{"Retry-After": "20"}),
        "429 in 200": Fault(body={"error": {"message": "Provider returned error", "code": 429}}),
        "502": Fault(502, b"<html>Bad gateway</html>"),
        **{str(status): refusing(status) for status in (503, 529)},
    },
}
#: What comes so often, and then an answer.
PASSING = {
    "broken once": [said(lambda good: good[:-1] + ",}")],
    "latin-1 once": [Fault(body='{"a": "\xe9"}'.encode("latin-1"))],
    "length once": [said(lambda good: good[: len(good) // 2], finish="length")],
    "cut once": [Fault(cut=True)],
    "429 short once": [refusing(429, **{"Retry-After": "1"})],
    "503 twice": [refusing(503), refusing(503)],
}
ENDS = {name: end for end, modes in MODES.items() for name in modes}
ENDS |= dict.fromkeys(PASSING, "completed")
#: Of a chat's question plain words are the answer.
PROSE = "no json"
#: What no person should read: words of Python, of its libraries, of Postgres; the key.
INSIDE = re.compile(
    r"\bError\b|Traceback|validation|pydantic|None|expected |<class|httpx|line \d|Unicode|" + KEY
)
#: What begins a work with a text, by the type of its job.
BEGIN = {
    "plan": "select plans.start(jsonb_build_object('prompt', %s::text,"
    " 'speed_vs_detail', 'fast_but_skip_details'), null)",
    "chat_message": "select chat.request('chat_' || md5(t) || md5(t),"
    " jsonb_build_object('text', t)) from (select %s::text as t) as said",
    "sop_generation": """
      with made as (
        insert into public.trainings (workspace_id, title, object_key, transcript)
        select id, %s, 'workspaces/' || id || '/' || gen_random_uuid(), '{}'
        from public.workspaces limit 1 returning *),
      received as (
        insert into public.training_chunks (training_id, number, workspace_id, engine, offline,
          segments)
        select id, 1, workspace_id, 'e', false, '[{"start": 0, "end": 9, "text": "open it"}]'
        from made)
      select training.enqueue(made, 'sop_generation') from made""",
}

#: Each mode by one kind of work, in turn.
WORKS = [
    (job_type, name)
    for at, job_type in enumerate(BEGIN)
    for number, name in enumerate(ENDS)
    if name == PROSE or number % len(BEGIN) == at
]


async def test_each_mode_ends_as_it_should(process_database: Renewed) -> None:
    """No attempt is spent on waiting."""
    project = project_of_a_file(process_database, "allow_anonymous")
    project.sql("update queue.settings set value = 'null' where name ~ 'guest.*per_minute'")
    for job_type, name in WORKS:
        project.sql(BEGIN[job_type], f"Plan a bakery [mode {name}]")

    async def look() -> dict[tuple[str, str], dict[str, Any]]:
        query = "select * from public.jobs where job_type = any (%s) order by created_at"
        return dict(zip(WORKS, project.sql(query, list(BEGIN)), strict=True))

    def are_done(rows: dict[tuple[str, str], dict[str, Any]]) -> bool:
        at_rest = {name: "pending" for name in MODES["pending"]}
        return all(
            row["finished_at"] or row["status"] == at_rest.get(name)
            for (_, name), row in rows.items()
        )

    async with ModelServer() as server:
        forever = {name: fault for modes in MODES.values() for name, fault in modes.items()}
        server.modes = {name: ([fault], True) for name, fault in forever.items()}
        server.modes |= {name: (faults, False) for name, faults in PASSING.items()}
        server.answers = {
            **ANSWERS,
            **dict.fromkeys(OTHERS, POINTS),
            "decide": {"tier": "standard", "reply": "Bakery"},
            "procedure": {"title": "Bakery", "steps": [{"title": "Open it", "at_seconds": 1}]},
        }
        apps: list[Any] = []

        def register(registry: Registry, settings: Settings, *, app: None) -> Any:
            for each in (plans, chat, training):
                apps.append(each.register(registry, settings))
                apps[-1].model = OpenAICompatible(server.url, model="m", key=KEY, answer_seconds=8)
            return apps[0]

        async with AppHarness(project, project.settings, register, None).open() as harness:
            rows = await harness.tick_until(look, are_done)
        for app in apps[1:]:
            await app.aclose()

    ends = {work: row["status"] for work, row in rows.items()}
    expected = {work: ENDS[work[1]] for work in WORKS} | {("chat_message", PROSE): "completed"}
    assert ends == expected
    for work, row in rows.items():
        shown = [row["error_message"], (row["progress"] or {}).get("message")]
        assert not any(INSIDE.search(text) for text in shown if text), (work, shown)
        if row["status"] == "failed":
            assert "The language model" in row["error_message"], work
        if row["status"] == "pending":
            assert (row["attempts"], "; it is asked again at " in shown[1]) == (0, True), work
