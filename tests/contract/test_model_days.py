"""Chat jobs that call a failing language model end with a result or a message for the user."""

import asyncio
import json
import os
import re
from collections import Counter
from typing import Any

import pytest

from minutehand.worker.testing import drain
from minutehand.worker.vendor import MAX_CALLS
from minutehand_apps.chat.processors import register
from minutehand_apps.chat.services import Chat
from tests.support.harness import AppHarness
from tests.support.misbehaving import Request
from tests.support.project import project_of_a_file
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import KEY, Fault, ModelServer

pytestmark = pytest.mark.timeout(900)

#: HTTP statuses for which a provider of models does not charge.
FREE = frozenset({*range(300, 600)} - {504})
ANSWER = json.dumps({"tier": "standard", "reply": "Bakery"})


def message(**fields: Any) -> Fault:
    return Fault(body={"choices": [{"message": {"content": None, **fields}}]})


def tool(arguments: str) -> Fault:
    return message(tool_calls=[{"function": {"name": "answer", "arguments": arguments}}])


#: Responses that contain the correct answer in an unusual form.
GOOD = {
    "a NUL": Fault(said=ANSWER.replace("Bak", "\\u0000")),
    "half of a pair in a text": Fault(said=ANSWER.replace("Bak", "\\ud800")),
    "thoughts beside": message(content=ANSWER, reasoning_content="Hm {"),
    "a tool's arguments": tool(ANSWER),
}
USELESS = {
    "YAML": Fault(said="reply: Hello\ntier: standard\nsteps:\n  - title: Open it\n"),
    "null": Fault(said="null"),
    "a search": tool('{"q": "bakeries"}'),
    "wrong types": Fault(said='{"reply": ["x"], "tier": 0}'),
    "many lists": Fault(said='{"reply": ' + "[" * 9_999 + "]" * 9_999 + "}"),
    "half of it": Fault(said=ANSWER[:20], finish="content_filter"),
    "too much": Fault(said="x" * 2_100_000),
    "choices are a text": Fault(body={"choices": "none"}),
    "broken zip": Fault(body=b"\x1f\x8b no zip", headers={"Content-Encoding": "gzip"}),
    "a refusal": message(refusal="I will not."),
    "nothing": Fault(body=b""),
    "too little": Fault(said=ANSWER, cut=True),
    "comments without end": Fault(),
}
WORDS = {"error": {"message": f"The key {KEY} has no rights for test-model", "type": "x"}}
REFUSED = {
    **{str(status): Fault(status, WORDS) for status in (303, 401, 413, 500, 504, 529)},
    "522": Fault(522, b"<html>Ray</html>"),
    "400, context": Fault(400, {"error": {"message": "maximum context length is 8192 tokens"}}),
    "422, a list": Fault(422, {"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}),
    "429, no credit": Fault(429, {"error": {"code": "insufficient_quota"}}),
    "429, tokens": Fault(
        429, WORDS, {"X-RateLimit-Reset-Tokens": "6m0s", "X-RateLimit-Remaining-Tokens": "0"}
    ),
    "503, soon": Fault(503, WORDS, {"Retry-After": "70"}),
}
DAYS = {**GOOD, **USELESS, **REFUSED}
#: Scenarios in which the model is overloaded or unavailable, so the job is retried later.
WAITING = {day for day in REFUSED if day.startswith(("429, tokens", "503", "52"))}

#: The SQL statement that creates a chat job with a given text.
BEGIN = (
    "select chat.request('chat_' || md5(t) || md5(t), jsonb_build_object('text', t))"
    " from (select %s::text as t) as said"
)
#: Words that a message for users must not contain: field and class names, HTTP statuses, the API
#: key, and the model's name.
INSIDE = re.compile(
    r"\b(tier|reply|choices|content|delta|None|null)\b|_|Error\b|[{}\[\]<>]"
    rf"|\b[1-5]\d\d\b|Traceback|pydantic|httpx|schema|JSON|URL|127\.0|test-model|{KEY}"
)
TESTED = list(DAYS) if os.environ.get("WEEKLY") else list(DAYS)[::2]


class DaysServer(ModelServer):
    """A model that fails as the `[day name]` in the prompt says.

    It counts the requests that a provider could charge for.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Number of requests that a provider could charge for, by scenario.
        self.chargeable: Counter[str] = Counter()

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        [name] = re.findall(r"\[day ([^]]+)\]", request.body.decode())[:1]
        self.chargeable[name] += DAYS[name].status not in FREE
        if name != "comments without end":
            self.faults["*"] = [DAYS[name]]
            await super().answer(request, writer)
            return
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n")
        while not writer.is_closing():
            writer.write(b": wait\n\n")
            await writer.drain()
            await asyncio.sleep(0.1)


def how(row: dict[str, Any]) -> str:
    """Return how a job ended for its user: with a result, a message, or a later retry."""
    if row["status"] == "completed":
        return "result"
    is_over = row["status"] == "failed"
    result = str(row["error_message"] if is_over else (row["progress"] or {}).get("message"))
    has_reason = is_over or (row["attempts"] == 0 and "; it is asked again at " in result)
    if not has_reason or INSIDE.search(result) or len(result) < 20:
        return f"{row['status']}: {result}"
    return "sentence" if is_over else "waits"


@pytest.mark.weekly
async def test_each_day_ends_in_a_result_or_a_sentence(process_database: Renewed) -> None:
    """Each job ends with a result or a message for the user, whatever the model responds.

    A step makes at most five calls that may be charged. No log contains the API key.
    """
    project = project_of_a_file(process_database, guests=True)
    project.sql("update queue.settings set value = 'null' where name ~ 'guest.*per_minute'")
    for day in TESTED:
        project.sql(BEGIN, f"Plan a bakery [day {day}]")

    def look() -> dict[str, dict[str, Any]]:
        query = "select * from public.jobs where job_type = 'chat_message' order by created_at"
        return dict(zip(TESTED, project.sql(query), strict=True))

    async with DaysServer() as server:
        quick = {"language_model_silence_seconds": 5.0}
        settings = server.known_to(project.settings).model_copy(update=quick)
        async with AppHarness(project, settings, register, Chat(settings)).open() as harness:
            await drain(harness.worker)
            rows = look()
            while {day for day, row in rows.items() if row["status"] == "pending"} - WAITING:
                project.make_due()
                await drain(harness.worker)
                rows = look()

    ends = {day: how(row) for day, row in rows.items()}
    assert set(ends.values()) <= {"result", "sentence", "waits"}, ends
    assert {day for day in TESTED if ends[day] == "result"} == GOOD.keys() & set(TESTED)
    assert max(server.chargeable.values()) <= MAX_CALLS
    logged = str(project.sql("select to_jsonb(l) as row from public.job_logs as l"))
    assert KEY not in logged + str(list(rows.values()))
