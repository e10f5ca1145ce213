"""The real client against a local server in the documented format, with all its ways to fail."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import pytest

from minutehand.ai import errors
from minutehand.ai.language_model import Completion, Material, Prompt
from minutehand.ai.openai_compatible import OpenAICompatible
from tests.unit.ai.model_server import KEY, Fault, ModelServer

SCHEMA = {
    "type": "object",
    "title": "Answer",
    "properties": {"title": {"type": "string", "x-offline": {"extract": 1}, "maxLength": 9}},
    "required": [],  # strict endpoints refuse a property that may be left out
}
PROMPT = Prompt("answer", "Be brief.", [Material("Goal", "Move house.")], schema=SCHEMA, seed=5)
SAID = "A sentence that is longer than twenty signs, so that it comes in pieces."


def client(server: ModelServer, **options: Any) -> OpenAICompatible:
    """A client whose waits take no time."""
    waits: list[float] = options.pop("waits", [])

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    given = {"model": "m", "key": KEY, "prices": (1.0, 2.0), "sleep": sleep, **options}
    return OpenAICompatible(server.url, **given)


async def answer(server: ModelServer, said: str) -> tuple[Completion, list[str]]:
    """The answer of a server that says this, and the pieces in which it came."""
    server.faults["answer"] = [Fault(said=said)]
    model = client(server)
    pieces: list[str] = []
    done = await model.complete(PROMPT, on_text=pieces.append)
    await model.aclose()
    return done, pieces


async def test_an_answer_is_streamed_counted_and_priced() -> None:
    """The request is as documented, without what only the offline model reads."""
    async with ModelServer() as server:
        done, pieces = await answer(server, SAID)

    assert (done.text, "".join(pieces), len(pieces) > 1) == (SAID, SAID, True)
    assert (done.usage.input_tokens, done.usage.output_tokens) == (100, 50)
    assert done.usage.cost_usd == pytest.approx(0.0002)
    assert not done.usage.estimated
    [seen] = server.seen
    assert (seen.key, seen.body["seed"], seen.body["stream"]) == (KEY, 5, True)
    told = seen.body["response_format"]["json_schema"]["schema"]
    # a property may be called as a keyword is: its name stays
    assert told["properties"] == {"title": {"type": "string"}}
    assert "title" not in {key for key in told if key != "properties"}
    assert told["required"] == ["title"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("<think>\nFive < six.\n</think>\n\nMove on Friday.", "Move on Friday."),
        ("\n<think></think>{}", "{}"),
        ("<thinking> is said, <think>so</think>.", "<thinking> is said, <think>so</think>."),
        ("<think>It never came to an end", ""),
    ],
)
async def test_what_a_model_thinks_is_no_answer(said: str, text: str) -> None:
    """Servers of one's own send it before the answer, in the answer's own text."""
    async with ModelServer() as server:
        done, pieces = await answer(server, said)

    assert (done.text, "".join(pieces)) == (text, text)


ERRORS = [
    (Fault(401, {"error": {"message": "bad key"}}), errors.NotAuthorised, 1),
    (Fault(403), errors.NotAuthorised, 1),
    (Fault(402, {"error": {"message": "pay"}}), errors.OutOfCredit, 1),
    (Fault(429, {"error": {"code": "insufficient_quota"}}), errors.OutOfCredit, 1),
    (Fault(422, {"error": {"message": "flagged"}}), errors.InputRefused, 1),
    (Fault(400), errors.InputRefused, 1),
    (Fault(429, {}, {"Retry-After": "60"}), errors.RateLimited, 1),
    (Fault(429, {}, {"Retry-After": "1"}), errors.RateLimited, 3),
    (Fault(429, {}), errors.RateLimited, 1),
    (Fault(500, {"error": {"message": f"no quota for api_key={KEY}"}}), errors.Unreachable, 3),
    (Fault(503, {}, {"Retry-After": "60"}), errors.Unreachable, 1),
    (Fault(hang_after=0), errors.Unreachable, 1),
    (Fault(drop=True), errors.Unreachable, 1),
    (Fault(said="", finish=None), errors.Unreachable, 1),
    (Fault(cut_after=0), errors.Unreachable, 1),
    (Fault(said=SAID, cut_after=2), errors.CutShort, 1),
    (Fault(said=SAID, hang_after=2), errors.CutShort, 1),
    (Fault(said=SAID, finish=None), errors.CutShort, 1),
    (Fault(said=SAID, finish="content_filter"), errors.InputRefused, 1),
]


@pytest.mark.parametrize(("fault", "kind", "requests"), ERRORS)
async def test_each_failure_has_its_type(
    fault: Fault,
    kind: type[errors.LanguageModelError],
    requests: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Asked again only where nothing was answered or charged; the key is in no message."""
    waits: list[float] = []
    async with ModelServer() as server:
        server.faults["answer"] = [fault] * 5
        hangs = fault.hang_after is not None
        model = client(server, waits=waits, answer_seconds=2.0 if hangs else 60.0)
        with caplog.at_level(logging.DEBUG), pytest.raises(kind) as raised:
            await model.complete(PROMPT)
        await model.aclose()

    assert type(raised.value) is kind
    assert len(server.seen) == requests
    assert KEY not in str(raised.value) + caplog.text
    if kind is errors.CutShort:
        assert SAID.startswith(raised.value.text)
        assert raised.value.text
    if fault.headers:
        assert raised.value.retry_after == timedelta(seconds=int(fault.headers["Retry-After"]))
        assert all(wait >= 1 for wait in waits)


async def test_what_passes_by_itself_is_not_reported() -> None:
    """A 500, a short 429, and then an answer."""
    async with ModelServer() as server:
        server.faults["answer"] = [
            Fault(500),
            Fault(429, {}, {"Retry-After": "2"}),
            Fault(said="ok"),
        ]
        model = client(server)
        done = await model.complete(PROMPT)
        await model.aclose()

    assert (done.text, len(server.seen)) == ("ok", 3)


async def test_a_closed_port_is_unreachable() -> None:
    """A request that never left is repeated, then given up."""
    waits: list[float] = []
    async with ModelServer() as server:
        model = client(server, waits=waits)
    with pytest.raises(errors.Unreachable):
        await model.complete(PROMPT)
    await model.aclose()
    assert len(waits) == 2


@pytest.mark.parametrize("field", ["response_format", "stream_options", "max_tokens", "seed"])
async def test_an_endpoint_that_lacks_a_feature_is_asked_without_it(field: str) -> None:
    """From then on, too; the schema is in the prompt anyhow."""
    async with ModelServer() as server:
        refusal = {"error": {"message": f"Unsupported parameter: '{field}'."}}
        server.faults["answer"] = [Fault(400, refusal)]
        model = client(server)
        await model.complete(PROMPT)
        await model.complete(PROMPT)
        await model.aclose()

    assert [field in seen.body for seen in server.seen] == [True, False, False]
    assert '"title"' in server.seen[-1].body["messages"][0]["content"]
    if field == "max_tokens":
        assert server.seen[-1].body["max_completion_tokens"] == PROMPT.most_tokens


async def test_a_cancelled_call_ends_its_request() -> None:
    """The connection is closed, not left to write on."""
    async with ModelServer() as server:
        server.faults["answer"] = [Fault(said=SAID, hang_after=1)]
        model = client(server)
        heard = asyncio.Event()
        task = asyncio.create_task(model.complete(PROMPT, on_text=lambda _: heard.set()))
        await asyncio.wait_for(heard.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await model.aclose()


async def test_an_answer_stopped_at_its_limit_is_not_whole() -> None:
    """And its usage is estimated where none was told."""
    async with ModelServer() as server:
        server.faults["answer"] = [Fault(said='{"ti', finish="length")]
        model = client(server)
        done = await model.complete(PROMPT)
        await model.aclose()

    assert not done.whole
    with pytest.raises(errors.AnswerUnusable):
        done.data()
