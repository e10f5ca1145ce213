"""The real client against a local server in the documented format, with all its ways to fail."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Annotated, Any
from unittest.mock import MagicMock

import pytest
from pydantic import BaseModel, Field

from minutehand.ai.errors import LanguageModelError
from minutehand.ai.in_job import ask_for, wait_for
from minutehand.ai.language_model import Completion, Material, Prompt
from minutehand.ai.openai_compatible import OpenAICompatible
from minutehand.worker import Job, JobContext
from minutehand.worker.context import TurnEnded
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
    sent = seen.body["response_format"]["json_schema"]["schema"]
    assert sent == {
        "type": "object",
        "properties": {"title": {"type": "string"}},
        "required": ["title"],
        "additionalProperties": False,
    }


async def test_silence_is_not_repeated() -> None:
    """It may hide an answer that is charged for; the job waits for the model to be there."""
    async with ModelServer() as server:
        with pytest.raises(LanguageModelError) as raised:
            await complete(server, Fault(hang=True), answer_seconds=1.0)

    assert (raised.value.away, len(server.seen)) == (True, 1)


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


class Many(BaseModel):
    """Texts and lists with limits."""

    name: str = Field(max_length=5)
    text: str = Field(max_length=50)
    lines: list[Annotated[str, Field(max_length=40)]] = Field(max_length=2)


async def test_what_is_too_long_is_clipped_and_a_mending_note_says_what_was_wrong() -> None:
    """A name is not clipped: others refer to it. The limits are in the prompt."""
    async with ModelServer() as server:
        model, costs = client(server), []
        long = {"name": "Move", "text": "x" * 99, "lines": ["y" * 99] * 3}

        async def many(job: Job[None], ctx: JobContext) -> Any:
            found = await ask_for(job, ctx, model, PROMPT, Many)
            costs.append(ctx.cost_usd)
            return found

        server.faults["answer"] = [Fault(said=json.dumps(long | {"name": "Move house"}))]
        server.answers["answer"] = long
        run = await ProcessorTest(many, None).run()
        await model.aclose()

    assert run.result == {"name": "Move", "text": "x" * 49 + "…", "lines": ["y" * 39 + "…"] * 2}
    assert costs == [pytest.approx(0.0004)]
    first, second = (seen.body["messages"] for seen in server.seen)
    assert '"maxLength": 50' in first[0]["content"]
    assert '"maxItems": 2' in first[0]["content"]
    assert "name: String should have at most 5 characters" in second[0]["content"]
    assert "Move house" in second[1]["content"]


async def test_an_answer_that_was_cut_off_is_asked_for_with_the_larger_limit() -> None:
    """Which is a setting; then it fails, and says which."""
    async with ModelServer() as server:
        model = client(server, most_tokens=3_000)

        async def title(job: Job[None], ctx: JobContext) -> str:
            return (await ask_for(job, ctx, model, PROMPT, Titled)).title

        server.faults["answer"] = [Fault(said='{"titl', finish="length")] * 2
        run = await ProcessorTest(title, None).run()
        await model.aclose()

    assert [seen.body["max_tokens"] for seen in server.seen] == [2_000, 3_000]
    assert run.error is not None
    assert "LANGUAGE_MODEL_MOST_TOKENS" in run.error.message


@pytest.mark.parametrize(("seconds", "waits"), [(5, False), (3_600, True)])
async def test_a_model_is_waited_for_within_the_jobs_deadline(seconds: int, waits: bool) -> None:
    """Beyond it an attempt is spent."""
    now = datetime.now(UTC)
    job: Any = SimpleNamespace(created_at=now, deadline_at=now + timedelta(seconds=seconds))
    error = LanguageModelError("It is away", retry_after=timedelta(seconds=60))
    with pytest.raises(TurnEnded) if waits else nullcontext():
        wait_for(job, MagicMock(), error)
