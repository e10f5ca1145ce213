"""Answers of a provider made into an output: one per question in order, both shapes accepted.

What a provider sends as a whole is `provider_client`'s; here is the member `data` alone.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from minutehand_apps.beacon.models import (
    Asked,
    JobSpec,
    Output,
    OutputData,
    Response,
    first_problem,
)


class OutputRejected(Exception):
    """Answers are missing, extra, empty or malformed; the text says which, for people."""


def read_output(data: Any, spec: JobSpec) -> Output:
    """Read a provider's `data`: `{responses: […]}`, or the same once more inside a `data`.

    Raises:
        OutputRejected: The answers are not one per question of `spec`, each with a text.
    """
    if isinstance(data, dict) and "responses" not in data and isinstance(data.get("data"), dict):
        data = data["data"]
    answers = data.get("responses") if isinstance(data, dict) else None
    if not isinstance(answers, list):
        raise OutputRejected("data.responses must be a list of answers")
    by_id: dict[str, dict[str, Any]] = {}
    for place, answer in enumerate(answers):
        if not isinstance(answer, dict) or not isinstance(answer.get("question_id"), str):
            raise OutputRejected(f"responses[{place}] must be an object with a question_id")
        if answer["question_id"] in by_id:
            raise OutputRejected(f"question {_short(answer['question_id'])} is answered twice")
        by_id[answer["question_id"]] = answer
    asked = spec.asked
    if missing := [each.question_id for each in asked if each.question_id not in by_id]:
        raise OutputRejected(f"no answer to question {_listed(missing)}")
    if extra := sorted(by_id.keys() - {each.question_id for each in asked}):
        raise OutputRejected(f"an answer to a question that was not asked: {_listed(extra)}")
    responses = [_response(each, by_id[each.question_id]) for each in asked]
    return Output(data=OutputData(responses=responses))


def _response(asked: Asked, answer: dict[str, Any]) -> Response:
    text = answer.get("response")
    name = _short(asked.question_id)
    if not isinstance(text, str) or not text.strip(" \t\n\r"):
        raise OutputRejected(f"the answer to question {name} is empty")
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise OutputRejected(f"the answer to question {name} is not UTF-8 text")
    if answer.get("question", asked.question) != asked.question:
        raise OutputRejected(f"question {name} was answered with another text")
    duration = answer.get("duration_ms")
    if isinstance(duration, float) and duration == duration and abs(duration) < 1e9:
        duration = round(duration)
    response = {
        "question_id": asked.question_id,
        "question": asked.question,
        "response": text,
        "category": asked.category,
        "duration_ms": duration,
    }
    try:
        return Response.model_validate(response)
    except ValidationError as error:
        problem = first_problem(error)
        raise OutputRejected(f"the answer to question {name}: {problem}") from error


def _listed(ids: list[str]) -> str:
    shown = ", ".join(_short(each) for each in ids[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"


def _short(text: str) -> str:
    """Quote an id that a stranger wrote."""
    return repr(text if len(text) <= 60 else text[:59] + "…")
