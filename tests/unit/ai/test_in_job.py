"""A model asked in a job: what every answer costs is counted, and what its failure means."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.ai.errors import AnswerUnusable, OutOfCredit
from minutehand.ai.in_job import ask, ask_for, read_shape
from minutehand.ai.openai_compatible import OpenAICompatible
from minutehand.worker import Job, JobContext
from minutehand.worker.testing import ProcessorTest, Run
from tests.unit.ai.model_server import KEY, Fault, ModelServer
from tests.unit.ai.test_openai_compatible import PROMPT

#: What an answer of the server costs: 100 tokens read and 50 written, at 1 and 2 dollars a million.
EACH = 0.0002
UNUSABLE = Fault(said='{"name": 1}')
REASON = "The answer of m is not in the requested form: title"


class Titled(BaseModel):
    """An answer's shape."""

    title: str


async def run_job(server: ModelServer, costs: list[float], **options: Any) -> Run:
    """A job that asks for a title by `ask`, or by `ask_for` where there are options for it."""
    model = OpenAICompatible(server.url, model="m", key=KEY, prices=(1.0, 2.0))

    async def title(job: Job[None], ctx: JobContext) -> str:
        try:
            if options:
                return (await ask_for(ctx, model, PROMPT, Titled, **options)).title
            answer = await ask(ctx, model, PROMPT, lambda said: read_shape(said, Titled))
            assert answer.usage.cost_usd == pytest.approx(ctx.cost_usd)
            return answer.value.title
        finally:
            costs.append(ctx.cost_usd)

    try:
        return await ProcessorTest(title, None).run()
    finally:
        await model.aclose()


async def test_an_answer_that_will_not_do_is_paid_for_too() -> None:
    """The second try's answer carries the usage of both, and the log says why there was one."""
    costs: list[float] = []
    async with ModelServer() as server:
        server.faults["answer"] = [UNUSABLE, Fault(said='{"title": "Move"}')]
        run = await run_job(server, costs)

    assert run.result == "Move"
    assert costs == pytest.approx([2 * EACH])
    assert [line.metadata for line in run.logs] == [{"reason": REASON}]


async def test_the_last_unusable_answer_is_raised_with_what_all_took() -> None:
    """Whoever shows a price shows what was paid."""
    costs: list[float] = []
    async with ModelServer() as server:
        server.faults["answer"] = [UNUSABLE, UNUSABLE]
        raised = (await run_job(server, costs)).raised

    assert costs == pytest.approx([2 * EACH])
    assert isinstance(raised, AnswerUnusable)
    assert getattr(raised.usage, "cost_usd", None) == pytest.approx(2 * EACH)


async def test_a_refusal_is_not_asked_again() -> None:
    """Only an answer that came and will not do is worth another try here."""
    async with ModelServer() as server:
        server.faults["answer"] = [Fault(402, {"error": {"message": "pay"}})]
        run = await run_job(server, [])

    assert isinstance(run.raised, OutOfCredit)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    ("fault", "outcome", "after"),
    [
        (Fault(402, {"error": {"message": "pay"}}), "failed", None),
        (Fault(429, {"error": {"message": "wait"}}, {"Retry-After": "60"}), "retry", 60),
    ],
)
async def test_a_model_that_fails_ends_the_attempt_as_it_should_or_gives_a_template(
    fault: Fault, outcome: str, after: float | None
) -> None:
    """Another attempt only where it may help, and when the service said."""
    async with ModelServer() as server:
        server.faults["answer"] = [fault]
        run = await run_job(server, [], otherwise=None)
        server.faults["answer"] = [fault]
        templated = await run_job(server, [], otherwise=lambda: Titled(title="Untitled"))

    assert (run.outcome, run.retry_after_seconds) == (outcome, after)
    assert (templated.outcome, templated.result) == ("completed", "Untitled")
    assert [line.level for line in templated.logs] == ["warning"]
