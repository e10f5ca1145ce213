"""The Invoke API as boto3 speaks it, asynchronous failures in a real queue, and the HTTP API."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import pytest_asyncio
from botocore.config import Config
from botocore.exceptions import ClientError

from supabase_local.lambda_runtime import FunctionConfig, LambdaRuntime
from supabase_local.lambda_runtime.gateway import Cors, Route
from supabase_local.lambda_runtime.server import Schedule, labelled
from tests.support.fake_aws import fake_aws

HERE = Path(__file__).parent
QUEUE = "test-worker-failures"
KEYS: dict[str, Any] = {
    "region_name": "us-east-1",
    "aws_access_key_id": "test",
    "aws_secret_access_key": "test",
}


def config(name: str, handler: str = "", **settings: Any) -> FunctionConfig:
    settings.setdefault("timeout", 60)
    return FunctionConfig(
        name=name, handler=f"sample_handlers.{handler or name}", task_root=HERE, **settings
    )


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with fake_aws() as endpoint:
        yield endpoint


@pytest.fixture
def sqs(moto: str) -> Iterator[Any]:
    client = boto3.client("sqs", endpoint_url=moto, **KEYS)
    url = client.create_queue(QueueName=QUEUE)["QueueUrl"]
    yield client
    client.delete_queue(QueueUrl=url)
    client.close()


@pytest_asyncio.fixture
async def runtime(moto: str) -> AsyncIterator[LambdaRuntime]:
    arn = f"arn:aws:sqs:us-east-1:123456789012:{QUEUE}"
    functions = [
        config("count", max_concurrency=1),
        config("fail", max_retries=2, on_failure=arn),
        config("hang", timeout=0.5, max_retries=0, on_failure=arn),
        config("tick", "count"),
        config("http"),
    ]
    routes = [
        Route("GET /slow", "http"),
        Route("ANY /{proxy+}", "http"),
        Route("GET /jobs/{id}", "count"),
    ]
    cors = Cors(
        ("https://app.example.com",), ("GET", "POST"), ("authorization",), ("location",), 60
    )
    async with LambdaRuntime(
        functions,
        routes=routes,
        cors=cors,
        sqs=lambda: boto3.client("sqs", endpoint_url=moto, **KEYS),
        pace=0.001,
    ) as server:
        yield server


class Invoker:
    """boto3's Lambda client off the event loop, without its own retries."""

    def __init__(self, url: str) -> None:
        self._client: Any = boto3.client(
            "lambda", endpoint_url=url, config=Config(retries={"total_max_attempts": 1}), **KEYS
        )

    async def __call__(self, name: str, payload: Any, **more: Any) -> Any:
        answer = await asyncio.to_thread(
            self._client.invoke, FunctionName=name, Payload=json.dumps(payload), **more
        )
        answer["Payload"] = answer["Payload"].read()
        return answer

    def close(self) -> None:
        self._client.close()


@pytest_asyncio.fixture
async def invoke(runtime: LambdaRuntime) -> AsyncIterator[Invoker]:
    invoker = Invoker(runtime.url)
    yield invoker
    invoker.close()


@pytest_asyncio.fixture
async def client(runtime: LambdaRuntime) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=runtime.url, timeout=60) as client:
        yield client


async def received(sqs: Any) -> dict[str, Any]:
    """The one message of the failure queue."""
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    answer: dict[str, Any] = {}
    async with asyncio.timeout(120):
        while "Messages" not in answer:
            answer = await asyncio.to_thread(
                sqs.receive_message, QueueUrl=url, WaitTimeSeconds=5, MaxNumberOfMessages=10
            )
    [message] = answer["Messages"]
    body: dict[str, Any] = json.loads(message["Body"])
    return body


async def test_boto3_gets_the_answer_of_a_synchronous_invoke(invoke: Invoker) -> None:
    """The wake-up code must be able to use the client it uses on AWS."""
    answer = await invoke("count", {"x": 1})

    assert answer["StatusCode"] == 200
    assert answer["ExecutedVersion"] == "$LATEST"
    assert "FunctionError" not in answer
    assert json.loads(answer["Payload"])["echo"] == {"x": 1}


async def test_an_arn_names_the_same_function(invoke: Invoker) -> None:
    """Callers hold names, partial ARNs or whole ones."""
    answer = await invoke("arn:aws:lambda:us-east-1:123456789012:function:count", {})

    assert answer["StatusCode"] == 200


async def test_a_function_error_is_status_200_with_a_marker(
    invoke: Invoker, tmp_path: Path
) -> None:
    """Who only looks at the status code believes a crash was a success."""
    answer = await invoke("fail", {"mark": str(tmp_path / "m")}, LogType="Tail")

    assert answer["StatusCode"] == 200
    assert answer["FunctionError"] == "Unhandled"
    assert json.loads(answer["Payload"])["errorType"] == "ValueError"
    assert b"about to raise" in base64.b64decode(answer["LogResult"])


async def test_an_unknown_function_is_not_found(invoke: Invoker) -> None:
    """A misspelt WORKER_FUNCTION_NAME must be told apart from a throttle."""
    with pytest.raises(ClientError) as caught:
        await invoke("nobody", {})

    assert caught.value.response["Error"]["Code"] == "ResourceNotFoundException"


async def test_beyond_the_cap_is_429(
    invoke: Invoker, runtime: LambdaRuntime, tmp_path: Path
) -> None:
    """A throttled wake-up is normal, and its caller has to recognise it."""
    gate = tmp_path / "gate"
    first = asyncio.create_task(invoke("count", {"until": str(gate)}))
    async with asyncio.timeout(60):
        while not runtime.functions["count"].environments:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    with pytest.raises(ClientError) as caught:
        await invoke("count", {})
    gate.touch()
    await first

    assert caught.value.response["Error"]["Code"] == "TooManyRequestsException"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 429


async def test_an_oversized_asynchronous_payload_is_refused(invoke: Invoker) -> None:
    """Asynchronous events end at 1 MB, long before synchronous ones."""
    with pytest.raises(ClientError) as caught:
        await invoke("count", {"x": "y" * 1_100_000}, InvocationType="Event")

    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


async def test_a_failed_asynchronous_invoke_is_repeated_and_lands_in_the_queue(
    invoke: Invoker, sqs: Any, tmp_path: Path
) -> None:
    """What nobody waits for must not vanish."""
    mark = tmp_path / "tries"

    accepted = await invoke("fail", {"mark": str(mark)}, InvocationType="Event")
    record = await received(sqs)

    assert accepted["StatusCode"] == 202
    assert mark.read_text().splitlines() == ["tried"] * 3
    assert record["requestContext"]["condition"] == "RetriesExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 3
    assert record["requestPayload"] == {"mark": str(mark)}
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert record["responsePayload"]["errorMessage"] == "this handler always fails"


async def test_a_timed_out_asynchronous_invoke_lands_in_the_queue_after_one_try(
    invoke: Invoker, sqs: Any, tmp_path: Path
) -> None:
    """The worker allows no repeats: the database is the retry engine."""
    await invoke("hang", {"mark": str(tmp_path / "m")}, InvocationType="Event")
    record = await received(sqs)

    assert record["requestContext"]["approximateInvokeCount"] == 1
    assert "Task timed out" in record["responsePayload"]["errorMessage"]


async def test_throttled_asynchronous_invokes_wait_their_turn(
    invoke: Invoker, runtime: LambdaRuntime
) -> None:
    """A burst beyond the cap is delayed, not lost."""
    for _ in range(4):
        await invoke("count", {}, InvocationType="Event")
    await runtime.queue.drain()
    answer = await invoke("count", {})

    assert json.loads(answer["Payload"])["calls"] == 5
    assert runtime.functions["count"].started == 1


async def test_the_schedule_invokes_with_its_input_filled_in(tmp_path: Path) -> None:
    """The tick comes by itself, with the time it was planned for."""
    lines: list[str] = []
    schedule = Schedule("tick", '{"at":"<aws.scheduler.scheduled-time>"}', every_seconds=0.1)
    async with (
        LambdaRuntime(
            [config("tick", "count")], schedule=schedule, say=lambda _, line: lines.append(line)
        ),
        asyncio.timeout(120),
    ):
        while sum('"status": "success"' in line for line in lines) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    assert any("platform.report" in line for line in lines)


async def test_http_becomes_an_event_of_format_2(client: httpx.AsyncClient) -> None:
    """Field by field what Mangum reads on AWS."""
    answer = await client.post(
        "/things/a%20b?x=1&x=2&empty=",
        json={"k": "v"},
        headers={"cookie": "one=1; two=2", "x-thing": "y"},
    )
    event = answer.json()

    assert answer.status_code == 201
    assert event["version"] == "2.0"
    assert event["routeKey"] == "ANY /{proxy+}"
    assert event["rawPath"] == "/things/a b"
    assert event["rawQueryString"] == "x=1&x=2&empty="
    assert event["queryStringParameters"] == {"x": "1,2", "empty": ""}
    assert event["pathParameters"] == {"proxy": "things/a b"}
    assert event["cookies"] == ["one=1", "two=2"]
    assert event["headers"]["x-thing"] == "y"
    assert event["requestContext"]["http"]["method"] == "POST"
    assert json.loads(event["body"]) == {"k": "v"}
    assert event["isBase64Encoded"] is False
    assert answer.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]


async def test_binary_bodies_travel_as_base64_both_ways(client: httpx.AsyncClient) -> None:
    """An uploaded file must arrive byte for byte."""
    event = (
        await client.post("/up", content=b"\x00\xff", headers={"content-type": "image/png"})
    ).json()
    image = await client.get("/binary")

    assert event["isBase64Encoded"] is True
    assert base64.b64decode(event["body"]) == b"\x00\xff"
    assert image.content == b"\x89PNG"
    assert image.headers["content-type"] == "image/png"


async def test_the_most_specific_route_wins(client: httpx.AsyncClient) -> None:
    """`GET /jobs/{id}` is not swallowed by the catch-all."""
    one = await client.get("/jobs/17")
    other = await client.post("/jobs/17")

    assert one.json()["echo"]["pathParameters"] == {"id": "17"}
    assert other.status_code == 201


async def test_a_custom_domains_mapping_key_is_in_the_events_path_and_in_no_route(
    moto: str,
) -> None:
    """Two services can share a domain; each one's routes stay as they are."""
    runtime = LambdaRuntime(
        [config("http")], routes=[Route("ANY /things/{proxy+}", "http")], mapping_key="background"
    )
    async with runtime, httpx.AsyncClient(base_url=runtime.url, timeout=60) as client:
        mounted = (await client.get("/background/things/a")).json()
        nowhere = await client.get("/background/other")

    assert mounted["routeKey"] == "ANY /things/{proxy+}"
    assert mounted["pathParameters"] == {"proxy": "a"}
    assert mounted["rawPath"] == "/background/things/a"
    assert mounted["requestContext"]["http"]["path"] == "/background/things/a"
    assert nowhere.status_code == 404


async def test_an_answer_without_a_status_code_is_the_body(client: httpx.AsyncClient) -> None:
    """The inferred response of payload format 2.0."""
    answer = await client.get("/bare")

    assert (answer.status_code, answer.json()) == (200, {"plain": True})


async def test_a_raising_handler_is_a_plain_500(client: httpx.AsyncClient) -> None:
    """No stack trace leaves the gateway."""
    answer = await client.get("/raise")

    assert (answer.status_code, answer.json()) == (500, {"message": "Internal Server Error"})


async def test_the_gateway_gives_up_before_the_function(moto: str) -> None:
    """HTTP API waits 30 s at most; the function runs on."""
    runtime = LambdaRuntime([config("http")], routes=[Route("ANY /{proxy+}", "http")])
    runtime._http_api.integration_seconds = 0.3
    async with runtime, httpx.AsyncClient(base_url=runtime.url, timeout=60) as client:
        answer = await client.get("/slow")

    assert (answer.status_code, answer.json()) == (503, {"message": "Service Unavailable"})


async def test_cors_is_the_gateways_business(client: httpx.AsyncClient) -> None:
    """Preflights never reach a function, and its own CORS headers are dropped."""
    allowed = {"origin": "https://app.example.com"}
    preflight = await client.options(
        "/x", headers={**allowed, "access-control-request-method": "POST"}
    )
    actual = await client.get("/x", headers=allowed)
    stranger = await client.options(
        "/x", headers={"origin": "https://evil.test", "access-control-request-method": "POST"}
    )

    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
    assert preflight.headers["access-control-allow-methods"] == "GET,POST"
    assert actual.headers["access-control-allow-origin"] == "https://app.example.com"
    assert actual.headers["access-control-expose-headers"] == "location"
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize(
    ("line", "level", "message"),
    [
        ("plain words", "INFO", "plain words"),
        ('{"level": "ERROR", "message": "m"}', "ERROR", "m"),
        ('{"_aws": {}, "DeadLetters": 1}', "DEBUG", "metrics"),
        (
            '{"type": "platform.report", "record": '
            '{"status": "timeout", "metrics": {"durationMs": 1000.4}}}',
            "WARNING",
            "timeout after 1000 ms",
        ),
    ],
)
def test_every_line_says_whose_it_is_and_how_bad(line: str, level: str, message: str) -> None:
    """Four functions write into one log."""
    entry = labelled("worker", line)

    assert (entry["level"], entry["message"], entry["function"]) == (level, message, "worker")
