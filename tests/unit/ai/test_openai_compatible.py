"""The real client against a local server in the documented format, with all its ways to fail."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from minutehand.ai.errors import LanguageModelError
from minutehand.ai.in_job import ask_for
from minutehand.ai.language_model import Completion, Material, Prompt
from minutehand.ai.openai_compatible import OpenAICompatible
from minutehand.worker import Job, JobContext
from minutehand.worker.testing import ProcessorTest
from tests.unit.ai.model_server import KEY, Fault, ModelServer

SCHEMA = {
    "type": "object",
    "title": "Answer",
    "properties": {"title": {"type": "string", "maxLength": 9}},
    "required": [],  # strict endpoints refuse a property that may be left out
}
PROMPT = Prompt("answer", "Be brief.", [Material("Goal", "Move house.")], schema=SCHEMA)
SAID = "Move on Friday."


class Titled(BaseModel):
    """An answer's shape."""

    title: str


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and client share one loop: on a busy machine it takes more than 5 s to connect."""
    monkeypatch.setattr("minutehand.queue.foreign.CONNECT_SECONDS", 60.0)


def client(server: ModelServer, **options: Any) -> OpenAICompatible:
    """A client whose waits take no time."""
    waits: list[float] = options.pop("waits", [])

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    given = {"model": "m", "key": KEY, "prices": (1.0, 2.0), "sleep": sleep, **options}
    return OpenAICompatible(server.url, **given)


async def complete(server: ModelServer, *faults: Fault, **options: Any) -> Completion:
    """Ask a server that answers so."""
    server.faults["answer"] = list(faults)
    model = client(server, **options)
    try:
        return await model.complete(PROMPT)
    finally:
        await model.aclose()


async def test_an_answer_is_counted_and_priced() -> None:
    """The request is as documented, its schema as strict endpoints take it."""
    async with ModelServer() as server:
        done = await complete(server, Fault(said=f"<think>\nHm.\n</think>\n{SAID}"))

    assert done.text == SAID
    assert done.cost_usd == pytest.approx(0.0002)
    [seen] = server.seen
    told = seen.body["response_format"]["json_schema"]["schema"]
    assert told == {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }


ERRORS = [
    (Fault(401, {"error": {"message": "bad key"}}), "not_authorised", 1),
    (Fault(402, {"error": {"message": "pay"}}), "out_of_credit", 1),
    (Fault(429, {"error": {"code": "insufficient_quota"}}), "out_of_credit", 1),
    (Fault(400), "input_refused", 1),
    (Fault(429, {}, {"Retry-After": "60"}), "rate_limited", 1),
    (Fault(429, {}, {"Retry-After": "1"}), "rate_limited", 2),
    (Fault(500, {"error": {"message": f"no quota for api_key={KEY}"}}), "unreachable", 2),
    (Fault(hang=True), "unreachable", 1),
    (Fault(drip=True), "unreachable", 1),
    (Fault(cut=True), "cut_short", 2),
    (Fault(said=SAID, finish="content_filter"), "input_refused", 1),
    (Fault(message={"refusal": "No."}), "input_refused", 1),
    (Fault(said=""), "answer_unusable", 1),
]


@pytest.mark.parametrize(("fault", "code", "requests"), ERRORS)
async def test_each_failure_has_its_code(
    fault: Fault,
    code: str,
    requests: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asked again only where nothing was answered or charged; the key is in no message."""
    patience = 1.0 if fault.hang or fault.drip else 60.0
    async with ModelServer() as server:
        with caplog.at_level(logging.DEBUG), pytest.raises(LanguageModelError) as raised:
            await complete(server, *[fault] * 5, answer_seconds=patience)

    assert (raised.value.code, len(server.seen)) == (code, requests)
    assert KEY not in str(raised.value) + caplog.text
    if fault.headers:
        assert raised.value.retry_after == timedelta(seconds=int(fault.headers["Retry-After"]))


@pytest.mark.parametrize("field", ["response_format", "max_tokens"])
async def test_an_endpoint_that_lacks_a_feature_is_asked_without_it(field: str) -> None:
    """From then on, too; the schema is in the prompt anyhow."""
    async with ModelServer() as server:
        refusal = {"error": {"message": f"Unsupported parameter: '{field}'."}}
        server.answers = {"answer": "{}", "text": "{}"}
        await complete(server, Fault(400, refusal))

    assert [field in seen.body for seen in server.seen] == [True, False]
    assert '"title"' in server.seen[-1].body["messages"][0]["content"]
    if field == "max_tokens":
        assert server.seen[-1].body["max_completion_tokens"] == PROMPT.most_tokens


@pytest.mark.parametrize("wrong", ['{"name": 1}', "no JSON", '{"titl'])
async def test_an_answer_of_another_shape_is_mended_once(wrong: str) -> None:
    """The model is told what was wrong; both answers are paid for; a third is not asked for."""
    async with ModelServer() as server:
        model = client(server)

        async def title(job: Job[None], ctx: JobContext) -> tuple[str, float]:
            found = (await ask_for(ctx, model, PROMPT, Titled)).title
            return found, ctx.cost_usd

        server.faults["answer"] = [
            Fault(said=wrong),
            Fault(said='```\n{"title": "M", "x": 1}\n```'),
        ]
        mended = await ProcessorTest(title, None).run()
        asked = server.seen[-1].body["messages"]
        server.faults["answer"] = [Fault(said=wrong)] * 9
        failed = await ProcessorTest(title, None).run()
        await model.aclose()

    assert mended.result == ["M", pytest.approx(0.0004)]
    assert wrong in asked[1]["content"]
    assert "could not be used" in asked[0]["content"]
    assert failed.error is not None
    assert len(server.seen) == 4
