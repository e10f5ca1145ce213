"""Asking until an answer can be used: what every answer costs is counted, usable or not."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from minutehand.ai.asking import ask, read_shape
from minutehand.ai.errors import AnswerUnusable, OutOfCredit
from minutehand.ai.openai_compatible import OpenAICompatible
from tests.unit.ai.model_server import KEY, Fault, ModelServer
from tests.unit.ai.test_openai_compatible import PROMPT

#: What an answer of the server costs: 100 tokens read and 50 written, at 1 and 2 dollars a million.
EACH = 0.0002
UNUSABLE = Fault(said='{"name": 1}')


class Titled(BaseModel):
    """An answer's shape."""

    title: str


async def asked(server: ModelServer, paid: list[float], said: list[str]) -> str:
    """The title in the server's answer."""
    model = OpenAICompatible(server.url, model="m", key=KEY, prices=(1.0, 2.0))
    try:
        answer = await ask(
            model,
            PROMPT,
            lambda completion: read_shape(completion, Titled),
            paid=paid.append,
            on_unusable=lambda error: said.append(str(error)),
        )
    finally:
        await model.aclose()
    assert answer.usage.cost_usd == pytest.approx(sum(paid))
    return answer.value.title


async def test_an_answer_that_will_not_do_is_paid_for_too() -> None:
    """The second try's answer carries the usage of both."""
    paid: list[float] = []
    said: list[str] = []
    async with ModelServer() as server:
        server.faults["answer"] = [UNUSABLE, Fault(said='{"title": "Move"}')]
        title = await asked(server, paid, said)

    assert title == "Move"
    assert paid == pytest.approx([EACH, EACH])
    assert said == ["The answer of m is not in the requested form: title"]


async def test_the_last_unusable_answer_is_raised_with_what_all_took() -> None:
    """Whoever shows a price shows what was paid."""
    paid: list[float] = []
    async with ModelServer() as server:
        server.faults["answer"] = [UNUSABLE, UNUSABLE]
        with pytest.raises(AnswerUnusable) as unusable:
            await asked(server, paid, [])

    assert paid == pytest.approx([EACH, EACH])
    assert getattr(unusable.value.usage, "cost_usd", None) == pytest.approx(2 * EACH)


async def test_a_refusal_is_not_asked_again() -> None:
    """Only an answer that came and will not do is worth another try here."""
    async with ModelServer() as server:
        server.faults["answer"] = [Fault(402, {"error": {"message": "pay"}})]
        with pytest.raises(OutOfCredit):
            await asked(server, [], [])

    assert len(server.seen) == 1
