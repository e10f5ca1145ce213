"""What language models, and what stands before them, do on a bad day; and what becomes of a job."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from tests.unit.ai.model_server import KEY, Fault


@dataclass(frozen=True)
class Mode:
    """A way to misbehave, and what becomes of a job's question.

    Attributes:
        ends: With a result; failed, with a sentence; waiting for the model to be there.
        forever: The last fault again and again; else what comes behind them is good.
    """

    ends: Literal["result", "failed", "waits"]
    faults: tuple[Fault, ...]
    forever: bool = False


def _refusing(status: int, message: str, **headers: str) -> Fault:
    return Fault(status, {"error": {"message": message}}, headers)


def _changed(**members: Any) -> Fault:
    return Fault(said=lambda good: json.dumps(json.loads(good) | members))


def _once(*faults: Fault) -> Mode:
    return Mode("result", faults)


def _always(ends: Literal["result", "failed", "waits"], fault: Fault) -> Mode:
    return Mode(ends, (fault,), forever=True)


_TOOL = {"content": None, "tool_calls": [{"function": {"name": "search", "arguments": "{}"}}]}
_IN_200 = {"error": {"message": "Provider returned error", "code": 429}}
#: What models and what stands before them do on a bad day.
MODES: dict[str, Mode] = {
    # wrapped
    "fence": _always("result", Fault(said=lambda good: f"```json\n{good}\n```")),
    "fence after text": _always("result", Fault(said=lambda good: f"Sure!\n```\n{good}\n```\n")),
    "preamble": _always("result", Fault(said=lambda good: f"For {{you}}, 3 of 3:\n{good}")),
    "postscript": _always("result", Fault(said=lambda good: f"{good}\nAnything else?")),
    "bom": _always("result", Fault(said=lambda good: f"\ufeff{good}")),
    "think": _always("result", Fault(said=lambda good: f"<think>\n{{}}\n</think>\n{good}")),
    "parts": _always("result", Fault(said=lambda good: [{"type": "text", "text": good}])),
    "members": _always("result", _changed(surplus={"a": [1]})),
    "usage": _always("result", Fault(answer={"usage": [7]})),
    # wrong
    "no json once": _once(Fault(said="I cannot.")),
    "no json": _always("failed", Fault(said="I cannot.")),
    "broken once": _once(Fault(said=lambda good: good[:-1] + ",}")),
    "a list once": _once(Fault(said=lambda good: f"[{good[1:-1]}]")),
    "another shape once": _once(Fault(said='{"name": 1}')),
    "another shape": _always("failed", Fault(said='{"name": 1}')),
    "empty once": _once(Fault(said="")),
    "empty": _always("failed", Fault(said="")),
    "nothing once": _once(Fault(said="{}")),
    "number once": _once(Fault(answer={"choices": [{"message": {"content": 42}}]})),
    "number": _always("failed", Fault(answer={"choices": [{"message": {"content": 42}}]})),
    "no choices once": _once(Fault(answer={"choices": []})),
    "no message": _always("failed", Fault(answer={"choices": [{"message": None}]})),
    "html once": _once(Fault(body=b"<html>Welcome</html>")),
    "html": _always("failed", Fault(body=b"<html>Welcome</html>")),
    "nothing sent": _once(Fault(body=b"")),
    "latin-1 once": _once(Fault(body='{"a": "\xe9"}'.encode("latin-1"))),
    "a tool once": _once(Fault(message=_TOOL, finish="tool_calls")),
    "a tool": _always("failed", Fault(message=_TOOL, finish="tool_calls")),
    # cut
    "length once": _once(Fault(said=lambda good: good[: len(good) // 2], finish="length")),
    "length": _always("failed", Fault(said=lambda good: good[:9], finish="length")),
    "length, whole": _always("result", Fault(finish="length")),
    "only thought once": _once(Fault(said="", finish="length")),
    "only thought": _always("failed", Fault(said=None, message={"content": ""}, finish="length")),
    "cut once": _once(Fault(cut=True)),
    "cut": _always("waits", Fault(cut=True)),
    "too much": _always("failed", Fault(said="x" * 2_100_000)),
    # limited, away
    "429 short once": _once(_refusing(429, "slow down", **{"Retry-After": "1"})),
    "429": _always("waits", _refusing(429, "slow down", **{"Retry-After": "20"})),
    "429 once": _once(_refusing(429, "slow down", **{"Retry-After": "20"})),
    "429 without a time": _always("waits", _refusing(429, "slow down")),
    "429 in 200 once": _once(Fault(body=_IN_200)),
    "429 in 200": _always("waits", Fault(body=_IN_200)),
    "error in 200": _always("failed", Fault(body={"error": "no provider"})),
    "quota": _always("failed", Fault(429, {"error": {"code": "insufficient_quota"}})),
    "502": _always("waits", Fault(502, b"<html>Bad Gateway</html>")),
    "503 once": _once(_refusing(503, "overloaded"), _refusing(503, "overloaded")),
    "503": _always("waits", _refusing(503, "overloaded", **{"Retry-After": "9"})),
    "529": _always("waits", _refusing(529, "overloaded")),
    "500 once": _once(_refusing(500, "out of order")),
    "500": _always("failed", _refusing(500, "out of order")),
    # refused
    "401": _always("failed", _refusing(401, f"Incorrect API key provided: {KEY}")),
    "402": _always("failed", _refusing(402, "pay")),
    "404": _always("failed", _refusing(404, "no such model")),
    "301": _always("failed", Fault(301, b"", {"Location": "/v2"})),
    "context": _always("failed", _refusing(400, "maximum context length is 8192 tokens")),
    "refusal": _always("failed", Fault(message={"refusal": "I will not."})),
    "filter": _always("failed", Fault(finish="content_filter")),
}
#: What no person should read: words of Python and of its libraries.
PYTHON: re.Pattern[str] = re.compile(
    r"\bError\b|Traceback|validation error|pydantic|None|expected |<class|httpx|line \d"
)
