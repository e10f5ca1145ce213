"""Chat jobs that call a failing language model end with a result or a message for the user."""

import asyncio
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from minutehand.ai.openai_compatible import OpenAICompatible
from minutehand.config import Settings
from minutehand.worker import Registry
from minutehand.worker.testing import drain
from minutehand.worker.vendor import MAX_CALLS
from minutehand_apps.chat import processors as chat
from tests.support.harness import AppHarness
from tests.support.misbehaving import MisbehavingServer, Request, write
from tests.support.project import project_of_a_file
from tests.support.renewed import Renewed

pytestmark = pytest.mark.timeout(900)

KEY = "sk-days-4711"
#: HTTP statuses for which a provider of models does not charge.
FREE = frozenset({*range(300, 600)} - {504})


class Day(NamedTuple):
    """A language model's response to every request of one test scenario, called a day."""

    body: Callable[[str], bytes]
    status: int = 200
    headers: Mapping[str, str] | None = None
    cut: bool = False


def stream(text: str, *before: Any, finish: str = "stop", end: str = "\n") -> bytes:
    """Return an answer as a stream of server-sent events with a few letters each."""
    size = max(9, len(text) // 1000)
    pieces = ({"content": text[at : at + size]} for at in range(0, len(text), size))
    chunks = [{"choices": [{"delta": delta}]} for delta in (*before, *pieces)]
    chunks.append({"choices": [{"delta": {}, "finish_reason": finish}]})
    return "".join(f"data: {json.dumps(chunk)}{end}{end}" for chunk in chunks).encode()


def says(text: str, **more: Any) -> Day:
    return Day(lambda _: stream(text, **more))


def sends(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Day:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Day(lambda _: raw, status, headers)


def tool(good: str) -> bytes:
    call = {"function": {"name": "answer", "arguments": good}}
    return json.dumps({"choices": [{"message": {"content": None, "tool_calls": [call]}}]}).encode()


#: Responses that contain the correct answer in an unusual form.
GOOD = {
    "a NUL": Day(lambda good: stream(good.replace("Bak", "\\u0000"))),
    "half of a pair in a text": Day(lambda good: stream(good.replace("Bak", "\\ud800"))),
    "lines end in CR LF": Day(lambda good: stream(good, end="\r\n")),
    "thoughts beside": Day(lambda good: stream(good, {"reasoning_content": "Hm {"})),
    "a tool's arguments": Day(tool),
}
USELESS = {
    "YAML": says("reply: Hello\ntier: standard\nsteps:\n  - title: Open it\n"),
    "null": says("null"),
    "a search": Day(lambda _: tool('{"q": "bakeries"}')),
    "wrong types": says('{"reply": ["x"], "tier": 0}'),
    "many lists": says('{"reply": ' + "[" * 9_999 + "]" * 9_999 + "}"),
    "half of it": Day(lambda good: stream(good[: len(good) // 2], finish="content_filter")),
    "too much": says("x" * 2_100_000),
    "choices are a text": sends({"choices": "none"}),
    "broken zip": sends(b"\x1f\x8b no zip", headers={"Content-Encoding": "gzip"}),
    "a refusal": sends({"choices": [{"message": {"content": None, "refusal": "I will not."}}]}),
    "nothing": sends(b""),
    "too little": Day(stream, cut=True),
    "comments without end": sends(b": wait\n\n"),
}
WORDS = {"error": {"message": f"The key {KEY} has no rights for model m-9", "type": "x"}}
REFUSED = {
    **{str(status): sends(WORDS, status) for status in (303, 401, 413, 500, 504, 529)},
    "522": sends(b"<html>Ray</html>", 522),
    "400, context": sends({"error": {"message": "maximum context length is 8192 tokens"}}, 400),
    "422, a list": sends({"detail": [{"loc": ["body", "messages"], "msg": "bad"}]}, 422),
    "429, no credit": sends({"error": {"code": "insufficient_quota"}}, 429),
    "429, tokens": sends(
        WORDS, 429, {"X-RateLimit-Reset-Tokens": "6m0s", "X-RateLimit-Remaining-Tokens": "0"}
    ),
    "503, soon": sends(WORDS, 503, {"Retry-After": "70"}),
}
DAYS = {**GOOD, **USELESS, **REFUSED}
#: Scenarios in which the model is overloaded or unavailable, so the job is retried later.
WAITING = {day for day in REFUSED if day.startswith(("429, tokens", "503", "52"))}

#: The SQL statement that creates a chat job with a given text.
BEGIN = (
    "select chat.request('chat_' || md5(t) || md5(t), jsonb_build_object('text', t))"
    " from (select %s::text as t) as said"
)
ANSWER = json.dumps({"tier": "standard", "reply": "Bakery"})
#: Words that a message for users must not contain: field and class names, HTTP statuses, the API
#: key, and the model's name.
INSIDE = re.compile(
    r"\b(tier|reply|choices|content|delta|None|null)\b|_|Error\b|[{}\[\]<>]"
    rf"|\b[1-5]\d\d\b|Traceback|pydantic|httpx|schema|JSON|URL|127\.0|m-9|{KEY}"
)
TESTED = list(DAYS) if os.environ.get("WEEKLY") else list(DAYS)[::2]


class DaysServer(MisbehavingServer):
    """An HTTP server that acts as a model and fails as the `[day name]` in the prompt says.

    It counts the requests that a provider could charge for.
    """

    def __init__(self) -> None:
        super().__init__()
        #: Number of requests that a provider could charge for, by scenario.
        self.chargeable: Counter[str] = Counter()

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        asked = json.dumps(json.loads(request.body)["messages"])
        [name] = re.findall(r"\[day ([^]]+)\]", asked)[:1]
        day = DAYS[name]
        self.chargeable[name] += day.status not in FREE
        body = day.body(ANSWER)
        if "without end" not in name:
            headers = {"content-type": "text/event-stream", **(day.headers or {})}
            write(writer, day.status, body, headers, cut=day.cut)
            return
        writer.write(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\n\r\n")
        while not writer.is_closing():
            writer.write(body)
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

        def register(registry: Registry, settings: Settings, *, app: None) -> Any:
            made: Any = chat.register(registry, settings)
            made.model = OpenAICompatible(
                f"{server.origin}/v1", model="m-9", key=KEY, response_seconds=5
            )
            return made

        async with AppHarness(project, project.settings, register, None).open() as harness:
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
