"""Examples in the documentation that need a vendor, a model or a database session."""

import ast
import asyncio
import json
import re
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import httpx
import pytest
from pydantic import BaseModel

from infra.bench.scratch import scratch_settings
from minutehand.worker import Job, JobContext, ProcessorError, default_registry
from minutehand.worker.registry import Registry
from minutehand.worker.testing import ProcessorTest
from tests.integration.worker.drained.processors import COROUTINE
from tests.support.databases import Database
from tests.support.engine import ACME, Engine, Json
from tests.support.harness import until
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.unit.ai.model_server import ModelServer

RECIPES = ROOT / "shared" / "minutehand" / "pages" / "recipes.md"
CELERY = ROOT / "shared" / "minutehand" / "pages" / "celery.md"
DURABLE = ROOT / "shared" / "minutehand" / "pages" / "durable.md"
WORKER = ROOT / "shared" / "minutehand" / "worker" / "README.md"
AI = ROOT / "shared" / "minutehand" / "ai" / "README.md"


def example(page: Path, response: str) -> str:
    """Return the only Python block of a page that contains a text."""
    [found] = [block for block in blocks(page.read_text(), "python", "py") if response in block]
    return found


def defined(code: str, **names: Any) -> Json:
    """Run a block, given the names it needs, and return the names that it defines."""
    space: Json = {"__name__": "page", **names}
    exec(compile(code, "page", "exec"), space)
    return space


async def awaited(code: str, names: Json) -> None:
    """Run a block that may contain `await`, as the body of a coroutine, in the given names."""
    made = eval(compile(code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if isinstance(made, Awaitable):  # otherwise the block had no `await` and has already run
        await made


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, "completed"), (503, "retry"), (404, "failed")]
)
def test_a_route_of_the_app_does_the_work(
    status: int, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example's processor calls an HTTP route. The route's status decides the job's outcome."""
    route = httpx.MockTransport(lambda request: httpx.Response(status, json={"url": "t"}))
    monkeypatch.setattr(httpx, "AsyncClient", partial(httpx.AsyncClient, transport=route))
    try:
        space = defined(example(RECIPES, "thumbnails.make"))
        run = asyncio.run(ProcessorTest(space["make"], space["Thumbnail"](path="a")).run())
    finally:
        default_registry.forget("page")

    assert run.outcome == outcome
    assert run.result == ({"url": "t"} if status == 200 else None)


async def test_only_what_can_pass_is_retried() -> None:
    """The example retries a vendor's temporary errors and no others."""
    space = defined(
        example(RECIPES, "def fetch"), httpx=httpx, Any=Any, ProcessorError=ProcessorError
    )
    for status, error in ((404, ProcessorError), (503, httpx.HTTPStatusError), (200, None)):
        route = httpx.MockTransport(lambda request, s=status: httpx.Response(s, json=[1]))
        async with httpx.AsyncClient(transport=route, base_url="https://vendor.test") as client:
            if error is None:
                assert await space["fetch"](client, "/a") == [1]
                continue
            with pytest.raises(error):
                await space["fetch"](client, "/a")


def test_failures_are_reported_by_the_apps_own_init() -> None:
    """The example's function `register` adds a middleware that reports errors to Sentry."""
    import sentry_sdk  # slow, and needed only here

    space = defined(example(RECIPES, "report_errors"), sentry_sdk=sentry_sdk)
    registry = Registry()

    space["register"](registry, scratch_settings())
    # Remove the client, which would also report errors of later tests.
    sentry_sdk.get_global_scope().set_client(None)

    assert [each.__name__ for each in registry._around] == ["report_errors"]


async def test_a_job_of_the_sessions_own_transaction(database: Database) -> None:
    """The example enqueues a job in the transaction of an SQLAlchemy session."""
    session = MagicMock(execute=AsyncMock())
    order = SimpleNamespace(tenant_id=ACME, customer="Ada")
    names = {"session": session, "order": order, "text": str, "json": json}

    await awaited(example(RECIPES, "session.begin"), names)

    statement, given = session.execute.await_args.args
    # In this test's database, the jobs are in the schema `public`.
    bound = re.sub(r"(?<!:):(\w+)", r"%(\1)s", statement).replace("minutehand.", "public.")
    database.run("insert into workspaces values (%s, 'Acme')", ACME)
    with database.connect() as connection:
        [(made,)] = connection.execute(bound.encode(), given).fetchall()
    assert made["job"]["payload"] == {"name": "Ada"}


async def test_a_worker_of_ones_own_runs_what_is_there(
    engine: Engine, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples run a worker in a function and in the lifespan of an app."""
    environ["MINUTEHAND_APPS"] = "tests.integration.worker.drained"
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    engine.register(COROUTINE)
    engine.enqueue_many(30, job_type=COROUTINE)
    assert await defined(example(WORKER, "await drain(worker)"))["run_what_is_there"]() == 30

    engine.enqueue_many(3, job_type=COROUTINE)
    left = "select count(*) from jobs where status <> 'completed'"
    async with defined(example(RECIPES, "async def lifespan"))["lifespan"](None):
        await until(lambda: engine.one(left) == 0)


class Outline(BaseModel):
    """The pydantic model that the example names."""

    phases: list[str]


class Reply(BaseModel):
    """A pydantic model whose text is streamed."""

    text: str


async def test_a_model_is_asked_in_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    """The two examples ask a language model for structured output and stream its text."""
    first, second = blocks(AI.read_text(), "python")
    written: list[str] = []

    class Words:
        def write(self, text: str) -> None:
            written.append(text)

    async with ModelServer() as server:
        server.answers |= {"outline": {"phases": ["Pack"]}, "text": "It scatters."}
        settings = server.known_to(scratch_settings())

        async def ask(job: Job[None], ctx: JobContext) -> Json:
            names: Json = {"settings": settings, "goal": "Move house."}
            names |= {"job": job, "ctx": ctx}
            names |= {"Outline": Outline, "Reply": Reply, "words": Words()}
            await awaited(first, names)
            server.answers["outline"] = {"text": "Soon."}
            await awaited(second, names)
            await names["model"].aclose()
            return {"phases": names["outline"].phases, "reply": names["reply"].text}

        run = await ProcessorTest(ask, None).run()

    assert run.result == {"phases": ["Pack"], "reply": "Soon."}
    assert "".join(written) == "Soon."
    assert capsys.readouterr().out == "It scatters."


@pytest.fixture
def celery() -> Iterator[Json]:
    """The names that the examples for former Celery users define."""
    code = [example(CELERY, name) for name in ("RETRIED", "link_error")]
    yield defined("\n".join(code))
    default_registry._around.clear()


async def failing(job: Job[Any], ctx: JobContext) -> None:
    """A processor that fails in the way that its payload names."""
    raise {"listed": TimeoutError, "other": KeyError, "final": ProcessorError}[job.payload]("no")


@pytest.mark.parametrize(
    ("job_type", "how", "outcome"),
    [
        ("mail.send", "listed", "retry"),
        ("mail.send", "other", "failed"),
        ("mail.send", "final", "retry"),
        ("another", "other", "retry"),
    ],
)
async def test_only_listed_exceptions_are_retried(
    celery: Json, job_type: str, how: str, outcome: str
) -> None:
    """The example's middleware for former Celery users retries only the listed exceptions."""
    test = ProcessorTest(failing, how, job_type=job_type, around=[celery["autoretry_for"]])

    run = await test.run()

    assert run.outcome == outcome


async def test_the_last_failure_is_followed_by_another_job(celery: Json) -> None:
    """The example enqueues its `link_error` job once, when the last attempt fails."""
    test = ProcessorTest(failing, "other", max_attempts=2, around=[celery["link_error"]])

    made = []
    for _ in range(2):
        await test.run()
        made.append([each.job_type for jobs in test.children.values() for each in jobs])

    assert made == [[], ["mail.failed"]]


async def test_a_job_is_asked_for_until_it_has_ended() -> None:
    """The example polls a job until it has ended, or until a time limit."""
    space = defined(example(CELERY, "async def ended"))
    asked: list[str] = []

    class Asked:
        async def get_job(self, job_id: str) -> Any:
            asked.append(job_id)
            return SimpleNamespace(ended=len(asked) > 1)

    assert (await space["ended"](Asked(), "j")).ended
    assert asked == ["j", "j"]
    asked.clear()
    with pytest.raises(TimeoutError):
        await space["ended"](Asked(), "j", within=0.0)


class LambdaClient:
    """The calls of boto3's Lambda client that the examples make, on AWS's local runner."""

    def __init__(self) -> None:
        self.started: list[Json] = []
        self.runner: Any = None

    def send_durable_execution_callback_success(self, CallbackId: str, Result: str) -> None:
        self.runner.send_callback_success(CallbackId, Result.encode())

    def invoke(self, **arguments: Any) -> None:
        self.started.append(arguments)


@contextmanager
def running(function: Any) -> Iterator[Any]:
    """Run a durable function on AWS's runner for tests, which leaves its event loop open."""
    from aws_durable_execution_sdk_python_testing.runner import DurableFunctionTestRunner

    with DurableFunctionTestRunner(function, poll_interval=0.02) as runner:
        yield runner
    runner._scheduler._loop.close()


@pytest.fixture
def durable(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Json, LambdaClient]]:
    """The names that the examples of durable functions define, and the calls that they make."""
    functions = LambdaClient()
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr("boto3.client", lambda service: functions)
    names = {"calls": calls, "enqueue": lambda *call: calls.append(call)}
    names["emit_event"] = names["enqueue"]
    try:
        yield defined("\n".join(blocks(DURABLE.read_text(), "py")), **names), functions
    finally:
        default_registry.forget("page")


async def test_a_durable_function_waits_for_the_end_of_a_job(
    durable: tuple[Json, LambdaClient],
) -> None:
    """A durable function enqueues a job with its callback id, and continues when the job ends."""
    space, functions = durable
    with running(space["nightly"]) as runner:
        functions.runner = runner
        execution = runner.run_async('{"day": "2027-01-01"}')
        callback = await asyncio.to_thread(runner.wait_for_callback, execution)
        [(job_type, payload)] = space["calls"]

        run = await ProcessorTest(space["write"], space["Report"](**payload)).run()
        result = await asyncio.to_thread(runner.wait_for_result, execution)

    assert (job_type, payload["callback_id"]) == ("reports.write", callback)
    assert run.outcome == "completed"
    assert json.loads(str(result.result)) == json.dumps("reports/2027-01-01.pdf")


async def test_a_job_waits_for_the_end_of_a_durable_function(
    durable: tuple[Json, LambdaClient],
) -> None:
    """A job starts one durable function and continues when the function emits its event."""
    space, functions = durable
    test = ProcessorTest(space["approve"], space["Order"](amount=12))
    waiting = await test.run()
    [started] = functions.started
    with running(space["approval"]) as runner:
        await asyncio.to_thread(runner.run, started["Payload"])
    [(name, payload)] = space["calls"]
    test.event(payload)
    run = await test.run()

    assert waiting.wait
    assert waiting.wait["event"] == name
    assert started["DurableExecutionName"] in name
    assert (run.outcome, run.result) == ("completed", {"ok": True})
