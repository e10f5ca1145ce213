"""The client of a language model against a local server that can fail in many ways."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any, TypeVar

import pytest
from pydantic import BaseModel, Field

from minutehand.ai.errors import LanguageModelError, UnusableOutput
from minutehand.ai.in_job import ask_for
from minutehand.ai.language_model import Completion, Material, Prompt
from minutehand.ai.openai_compatible import OpenAICompatible, _ReasoningFilter
from minutehand.ai.sse import _ENDS, SseParser
from minutehand.worker import Job, JobContext
from minutehand.worker.errors import error_info
from minutehand.worker.testing import ProcessorTest
from tests.support.misbehaving import MisbehavingServer, Request
from tests.support.virtual_time import leaping
from tests.unit.ai.model_server import KEY, Fault, ModelServer
from tests.unit.ai.test_parsing import Written

T = TypeVar("T")
SCHEMA = {
    "type": "object",
    "title": "Answer",
    "properties": {"title": {"type": "string", "maxLength": 9}},
    "required": [],  # strict endpoints reject optional properties
}
PROMPT = Prompt("answer", "Be brief.", [Material("Goal", "Move house.")], schema=SCHEMA)
SAID = "Move on Friday."


class Titled(BaseModel):
    """The model's answer: an object with a title."""

    title: str


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow 60 seconds to connect, because server and client share one event loop."""
    monkeypatch.setattr("minutehand.queue.outbound_http.CONNECT_SECONDS", 60.0)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The running server of the language model."""
    async with ModelServer() as running:
        yield running


def client(server: ModelServer, **options: Any) -> OpenAICompatible:
    """Return a client of the server that does not sleep between attempts."""

    async def sleep(seconds: float) -> None:
        return

    given = {"model": "m", "key": KEY, "prices": (1.0, 2.0), "sleep": sleep, **options}
    return OpenAICompatible(server.url, **given)


@pytest.fixture
async def model(server: ModelServer) -> AsyncIterator[OpenAICompatible]:
    """A client of the server."""
    model = client(server)
    yield model
    await model.aclose()


async def ask(model: OpenAICompatible, **options: Any) -> Any:
    """Run a job that asks the model for a title, and return the run."""

    async def title(job: Job[None], ctx: JobContext) -> str:
        return (await ask_for(job, ctx, model, PROMPT, Titled, **options)).title

    return await ProcessorTest(title, None).run()


async def answered(model: OpenAICompatible) -> Completion:
    """Return the whole answer to the prompt."""
    async with model.stream(PROMPT) as stream:
        async for _ in stream:
            pass
    return stream.completion


async def complete(server: ModelServer, *faults: Fault, **options: Any) -> Completion:
    """Return the completion that the client makes of the server's faulty responses."""
    server.faults["answer"] = list(faults)
    model = client(server, **options)
    try:
        return await answered(model)
    finally:
        await model.aclose()


def rejection(status: int, **error: str) -> Fault:
    return Fault(status, {"error": error})


async def test_an_answer_is_counted_and_priced(server: ModelServer) -> None:
    """An answer has its text without the model's reasoning, and its cost.

    The request's schema has the form that strict endpoints accept.
    """
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


class Many(BaseModel):
    """An answer whose texts and lists have maximum lengths."""

    name: str = Field(max_length=5)
    text: str = Field(max_length=50)
    lines: list[Annotated[str, Field(max_length=40)]] = Field(max_length=2)


async def test_what_is_too_long_is_clipped_and_a_mending_note_says_what_was_wrong(
    server: ModelServer, model: OpenAICompatible
) -> None:
    """A text or a list that exceeds its maximum length is cut.

    A name is not cut, so the model is asked once more and given the error.
    """
    costs = []
    long = {"name": "Move", "text": "x" * 99, "lines": ["y" * 99] * 3}

    async def many(job: Job[None], ctx: JobContext) -> Any:
        found = await ask_for(job, ctx, model, PROMPT, Many)
        costs.append(ctx.cost_usd)
        return found

    server.faults["answer"] = [Fault(said=json.dumps(long | {"name": "Move house"}))]
    server.answers["answer"] = long
    run = await ProcessorTest(many, None).run()

    assert run.result == {"name": "Move", "text": "x" * 49 + "…", "lines": ["y" * 39 + "…"] * 2}
    assert costs == [pytest.approx(0.0004)]
    first, second = (seen.body["messages"] for seen in server.seen)
    assert '"maxLength": 50' in first[0]["content"]
    assert '"maxItems": 2' in first[0]["content"]
    assert "name: String should have at most 5 characters" in second[0]["content"]
    assert "Move house" in second[1]["content"]


LONG = f"{SAID} Paint the walls on Saturday, then rest."
WHOLE = json.dumps({"title": LONG})


def rest(body: dict[str, Any], *, repeated: int = 0) -> str:
    """Return the rest of the answer after the text in the prompt, with `repeated` characters."""
    return WHOLE[len(body["messages"][-2]["content"]) - repeated :]


def delta(text: str) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}}]})


STOP = '{"choices": [{"delta": {}, "finish_reason": "stop"}]}'
CUT, LIMITED = Fault(cut=True), Fault(said=WHOLE[:9], finish="length")
CUT_IN_EVENT = Fault(body=f'data: {delta(WHOLE[:30])}\n\ndata: {{"choic'.encode())


@pytest.mark.parametrize(
    ("fault", "continued", "result", "calls"),
    [
        (CUT, rest, LONG, "answer text"),
        (LIMITED, rest, LONG, "answer text"),
        (CUT_IN_EVENT, rest, LONG, "answer text"),
        (CUT_IN_EVENT, partial(rest, repeated=20), LONG, "answer text"),
        (CUT, WHOLE, LONG, "answer text"),
        (LIMITED, WHOLE, LONG, "answer text"),
        # The endpoint cannot continue the answer, so the client asks again.
        (CUT, "I cannot", LONG, "answer text answer"),
        (CUT, Fault(400, {"error": "No prefix."}), LONG, "answer text answer"),
        # The second call returns a whole answer in other words, which is used.
        (
            Fault(said='Sure: {"title": "Mo', finish="length"),
            '{ "title": "Stay on Monday." }',
            "Stay on Monday.",
            "answer text",
        ),
        (
            Fault(said='{"title": "Mo', finish="length"),
            '{"note": "It was cut.", "title": "Stay."}',
            "Stay.",
            "answer text",
        ),
    ],
)
async def test_an_answer_that_was_cut_continues_from_its_last_word(
    server: ModelServer,
    model: OpenAICompatible,
    fault: Fault,
    continued: Any,
    result: str,
    calls: str,
) -> None:
    """The client asks the model to continue an answer that broke off.

    Each word of the result is streamed once, and no other word remains.
    """
    written = Written()
    server.answers = {"answer": WHOLE, "text": continued}
    server.faults["answer"] = [fault]
    if isinstance(continued, Fault):
        server.faults["text"] = [continued]

    run = await ask(model, into=written)

    assert run.result == result
    assert "".join(written) == result
    assert " ".join(seen.name for seen in server.seen) == calls


async def test_an_answer_that_is_cut_twice_fails(server: ModelServer) -> None:
    """An answer that reaches the output limit twice fails the job.

    The log names the setting of the limit.
    """
    server.faults["*"] = [Fault(said='{"titl', finish="length"), Fault(said="e", finish="length")]
    model = client(server, most_tokens=3_000)
    run = await ask(model)
    await model.aclose()

    assert [seen.body["max_tokens"] for seen in server.seen] == [3_000, 3_000]
    words = "The language model's answer was too long. Ask for less at once."
    assert words in str(run.error)
    assert "LANGUAGE_MODEL_MOST_TOKENS" in run.messages[-1]


@pytest.mark.parametrize(
    ("said", "words"), [("", "answer was empty"), ("{}", "did not have the requested form")]
)
async def test_an_answer_that_cannot_be_used_is_stored_with_its_reason_and_its_server(
    server: ModelServer, model: OpenAICompatible, said: str, words: str
) -> None:
    server.faults["*"] = [Fault(said=said)] * 3
    address = server.origin.removeprefix("http://")
    run = await ask(model)

    assert words in run.error.message
    assert (run.error.address, len(server.seen)) == (address, 2)
    if not said:
        with pytest.raises(UnusableOutput) as found:
            await answered(model)
        assert error_info(found.value).message.endswith(f" is empty ({address})")


async def test_an_answer_comes_in_pieces_without_its_thought(
    server: ModelServer, model: OpenAICompatible
) -> None:
    """The client streams an answer in pieces without the model's reasoning.

    An endpoint that does not stream gives one piece.
    """
    server.answers["answer"] = f"<think>Hm, {SAID}</think>\n\n{SAID}"
    async with model.stream(PROMPT) as streamed:
        pieces = [piece async for piece in streamed]
    server.faults["answer"] = [Fault(answer={"id": "whole"})]
    whole = [piece async for piece in model.stream(PROMPT)]
    server.answers["text"] = "Yes."
    plain = [piece async for piece in model.stream("Is it so?")]

    assert ("".join(pieces), len(pieces) > 1) == (SAID, True)
    assert streamed.completion.cost_usd == pytest.approx(2e-4)
    assert streamed.completion.whole
    assert (whole, plain) == ([SAID], ["Yes."])
    assert server.seen[-1].body["messages"] == [{"role": "user", "content": "Is it so?"}]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_events_are_read_at_any_line_end_and_each_byte_is_searched_once(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line may have thousands of chunks."""
    searched = []

    def split(chunk: bytes) -> list[bytes]:
        searched.append(chunk)
        return _ENDS.split(chunk)

    monkeypatch.setattr("minutehand.ai.sse._ENDS", SimpleNamespace(split=split))
    stream = b"data: a\r\n\r\nevent: b\rdata:c\rdata: d\r\r: no\n\ndata: " + b"e" * 3000 + b"\r"
    parser = SseParser()
    events = [
        event for at in range(0, len(stream), size) for event in parser.add(stream[at : at + size])
    ]

    assert [*events, *parser.end()] == [("", "a"), ("b", "c\nd"), ("", "e" * 3000)]
    assert len(b"".join(searched)) < len(stream) + 9


class Counted(_ReasoningFilter):
    """A filter that counts how often it joins all pieces of a text."""

    joins = 0

    @property
    def raw(self) -> str:
        self.joins += 1
        return super().raw


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f" <think>Is 1 < 2? </thin </think>\n\n{SAID} </think>", f"{SAID} </think>"),
        (f"  {SAID}", f"  {SAID}"),
        ("<thi", "<thi"),
        ("<think>It does not end", ""),
        ("<think>Nothing follows</think> ", ""),
    ],
)
def test_a_thought_is_removed_wherever_it_is_cut(text: str, shown: str, size: int) -> None:
    """The model's reasoning is removed from a streamed answer, whatever the size of the pieces.

    The filter joins all pieces at most once, because there may be thousands.
    """
    words = Counted()
    pieces = [words.add(text[at : at + size]) for at in range(0, len(text), size)]

    assert "".join([*pieces, words.add("", is_last=True)]) == shown
    assert words.joins <= 1


async def close(_: asyncio.StreamWriter) -> None:
    """Return, so that the response ends."""


class Dripping(MisbehavingServer):
    """A server that streams `pieces` and then calls `then`.

    Without `then` it sends nothing more.
    """

    def __init__(self, *pieces: str, then: Any = None) -> None:
        super().__init__()
        self.pieces = pieces
        self._then = then

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n")
        for piece in self.pieces:
            writer.write(f"data: {piece}\n\n".encode())
        await writer.drain()
        await (self._then(writer) if self._then else self.hang())

    #: The simulated seconds after which the last use of the client ended.
    seconds: float

    @asynccontextmanager
    async def model(self) -> AsyncIterator[OpenAICompatible]:
        """Yield a client that waits a minute for a piece."""
        options: dict[str, Any] = {"prices": (1.0, 2.0), "response_seconds": 60}
        model = OpenAICompatible(f"{self.origin}/v1", model="m", **options)
        yield model
        await model.aclose()

    def during(self, use: Callable[[OpenAICompatible], Coroutine[Any, Any, T]]) -> T:
        """Use the client in simulated time, so that no silence takes real time."""

        async def story() -> T:
            async with self, self.model() as model:
                found = await use(model)
                self.seconds = asyncio.get_running_loop().time()
                return found

        return leaping(story(), network_seconds=0.02)


@pytest.mark.parametrize(
    ("server", "seconds"),
    [
        (Dripping(delta(WHOLE), STOP), 1),
        (Dripping(delta(WHOLE), "[DONE]"), 1),
        (Dripping(delta(WHOLE)), 60),
        (Dripping(delta(WHOLE), then=close), 0),
        (Dripping(delta(WHOLE), '{"error": {"message": "lost"}}', then=close), 0),
    ],
)
def test_a_whole_answer_is_used_whatever_its_connection_does(
    server: Dripping, seconds: float
) -> None:
    """An answer whose JSON object is complete is used, even if the connection then fails.

    After the end of an answer, the client waits a second for its token counts.
    """
    assert server.during(ask).result == LONG
    assert round(server.seconds) == seconds


@pytest.mark.parametrize(
    "server",
    [
        Dripping(delta(SAID), STOP),
        Dripping(delta(SAID), STOP, '{"error": {"message": "lost"}}', then=close),
        Dripping(json.dumps({"choices": [{"message": {"content": SAID}}]}), then=close),
    ],
)
def test_what_follows_the_end_of_an_answer_does_not_fail_it(server: Dripping) -> None:
    """A text that has ended is used, even if silence or an error follows.

    A text that is not streamed ends with its message.
    """
    assert server.during(answered).text == SAID


def test_an_answer_without_an_end_fails_once() -> None:
    """An answer that never ends fails the job with the code `answer_too_long`."""

    async def endless(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(f"data: {delta('a ')}\n\n".encode())
            await writer.drain()
            await asyncio.sleep(59)

    run = Dripping(then=endless).during(ask)

    assert run.error is not None
    assert (run.outcome, run.error.data["code"]) == ("failed", "answer_too_long")


async def test_a_cancel_ends_the_request_and_keeps_what_was_said() -> None:
    """A cancel of the job closes the connection to the model.

    The streamed words and the cost are kept.
    """
    left = asyncio.Event()

    async def ping(writer: asyncio.StreamWriter) -> None:
        while True:  # ends when the client has closed the connection
            writer.write(b": ping\n\n")
            try:
                await writer.drain()
            except ConnectionError:
                left.set()
                raise
            await asyncio.sleep(0.01)

    said, written = asyncio.Event(), Written()

    class Noting(Written):
        def write(self, text: str) -> None:
            written.append(text)
            said.set()

    async with Dripping(delta('{"title": "Move on'), then=ping) as server, server.model() as model:
        costs: list[float] = []

        async def title(job: Job[None], ctx: JobContext) -> str:
            try:
                return (await ask_for(job, ctx, model, PROMPT, Titled, into=Noting())).title
            finally:
                costs.append(ctx.cost_usd)

        test = ProcessorTest(title, None)
        running = asyncio.create_task(test.run())
        await said.wait()
        running.cancel()
        await running
        await left.wait()

    assert written == ["Move on"]
    assert costs[0] > 0
    assert test.steps["answer: calls 1"]["charged"] == 1


async def test_a_character_in_two_halves_is_joined() -> None:
    """A character that the endpoint splits into two UTF-16 halves is joined."""
    pieces = [delta("a\ud83d"), delta("\ude00b"), delta("\ud83d"), "[DONE]"]
    async with Dripping(*pieces, then=close) as server, server.model() as model:
        text = "".join([piece async for piece in model.stream(PROMPT)])

    assert text == "a😀b\ufffd"


def test_silence_between_two_pieces_is_what_is_limited() -> None:
    """A request fails if the endpoint is silent too long between two pieces.

    The reader's own work does not count as silence.
    """
    came: list[str] = []

    async def read(model: OpenAICompatible) -> None:
        async for piece in model.stream(PROMPT):
            came.append(piece)
            await asyncio.sleep(59)

    pieces = [delta(f"{number} ") for number in range(3)]
    with pytest.raises(LanguageModelError) as raised:
        Dripping(*pieces).during(read)

    assert len(came) == 3
    assert (raised.value.code, raised.value.charged) == ("silent", True)
    assert raised.value.text == "".join(came)


async def test_a_rejected_option_is_left_out_of_later_calls(
    server: ModelServer, model: OpenAICompatible
) -> None:
    """If the endpoint rejects an option, the client repeats the call without it.

    If that call succeeds, later calls omit the option. The limit then has its newer name.
    """
    server.answers = {"answer": "{}", "text": "{}"}
    server.faults["answer"] = [
        rejection(400, message="Unsupported parameters: response_format, 'max_tokens'.")
    ] * 2
    server.faults["text"] = [rejection(400, message="your prompt is rude")]
    with pytest.raises(LanguageModelError):
        await answered(model)
    for _ in range(2):
        await answered(model)

    for option in ("response_format", "max_tokens"):
        sent = [option in seen.body for seen in server.seen]
        assert sent == [True, False, True, False, False]
    assert server.seen[-1].body["max_completion_tokens"] == 16_000


@pytest.mark.parametrize(
    ("fault", "code", "calls"),
    [
        # The vendor may charge for this call although no response arrived.
        (Fault(hang=True), "silent", 1),
        (Fault(308, b"", {"location": "https://x.test/v2"}), "misconfigured", 1),
        (rejection(429, code="insufficient_quota"), "out_of_credit", 1),
        (rejection(429, code="billing_hard_limit_reached"), "out_of_credit", 1),
        (rejection(429, type="exceeded_current_quota_error"), "out_of_credit", 1),
        (Fault(400, {"message": "Your credit balance is too low"}), "out_of_credit", 1),
        (rejection(429, message="Slow down; to pay: /account/billing"), "rate_limited", 1),
        (rejection(200, code="429"), "rate_limited", 1),
        (Fault(body=b"event: error\ndata: <h1>No server</h1>\n\n"), "failed", 1),
        (rejection(498, message="no capacity"), "unreachable", 2),
        (rejection(499, message="client closed"), "silent", 1),
    ],
)
async def test_a_failure_is_classified_and_repeated_only_if_it_was_not_charged(
    server: ModelServer, fault: Fault, code: str, calls: int
) -> None:
    """Each failure of the endpoint gets a code.

    A call that may have been charged is not repeated. A rate limit differs from an account without
    credit.
    """
    with pytest.raises(LanguageModelError) as raised:
        await complete(server, fault, fault, response_seconds=0.2 if fault.hang else 60)

    assert (raised.value.code, len(server.seen)) == (code, calls)
    if code == "misconfigured":
        assert "https://x.test/v2); LANGUAGE_MODEL_URL may be wrong" in str(raised.value)


@pytest.mark.parametrize("body", [{"content": [{"type": "text", "text": SAID}]}, b"data: Hi\n\n"])
async def test_an_api_of_another_form_is_a_wrong_setting_and_one_odd_response_is_not(
    server: ModelServer, model: OpenAICompatible, body: Any
) -> None:
    """One response in an unknown format is asked for again.

    Two in succession fail the job, because LANGUAGE_MODEL_URL is probably wrong.
    """
    server.answers["answer"] = {"title": SAID}
    calls, ends = [], []
    for odd in (1, 2, 1, 0, 1):
        server.faults["answer"] = [Fault(body=body)] * odd
        before = len(server.seen)
        run = await ask(model)
        calls.append(len(server.seen) - before)
        ends.append(run.error.data["code"] if run.error else run.result)
        assert run.error is None or "LANGUAGE_MODEL_URL" in run.messages[-1]

    assert ends == [SAID, "misconfigured", "misconfigured", SAID, SAID]
    assert calls == [2, 2, 1, 1, 2]


@pytest.mark.parametrize(
    "content", [[SAID], [{"type": "output_text", "text": SAID}, {"type": "thinking"}]]
)
async def test_parts_of_an_answer_are_its_words(server: ModelServer, content: list[Any]) -> None:
    """An answer that the endpoint returns as a list of parts is joined."""
    choice = {"index": None, "message": {"content": content}, "finish_reason": "stop"}
    found = await complete(server, Fault(answer={"choices": [choice]}))

    assert found.text == SAID
