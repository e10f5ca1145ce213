"""Checks that the running API conforms to its published OpenAPI document."""

import asyncio
import gzip
import random
import string
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import reduce
from operator import getitem
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from minutehand.web import sse
from tests.contract.api import Api, serving_api
from tests.support.engine import ACME, ADA, GLOBEX, MISSING, Json
from tests.support.project import project_of_a_file
from tests.support.renewed import Renewed

METHODS = ("get", "post", "put", "patch", "delete")
ODD_VALUES: list[Any] = [None, True, -1, 0.5, "", "x" * 300, [], {}, "ünï\u2028code", 10**30]
#: Sample strings by their JSON-schema format, or for any pattern.
TEXTS = {
    "uuid": [ACME, MISSING],
    "date-time": ["2031-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00"],
    "pattern": ["video/mp4", "text/csv"],
}
#: Parts of a path, and values of headers and queries, that no client of ours sends.
ODD_TEXTS = [
    *("%00", "%FF", "%2e%2e%2f", "..", "null", "-1", "1e999", "*", "(1,2)", "%0d%0aX: y", "[]"),
    *("a" * 5000, "9" * 30, "' or 1=1--", "%F0%9F%99%82", "\xe9"),
]
ODD_HEADERS = [
    *("Idempotency-Key", "Last-Event-ID", "X-Session-Id", "X-Request-Id", "Traceparent", "Range"),
    *("Accept", "Origin", "Cookie", "Content-Type", "Content-Encoding", "X-Forwarded-For"),
    *("Authorization", "Host", "Upgrade"),
]
ODD_BODIES = [
    *(b"", b'{"a":', b"\xff\xfe{}", b'{"a":1,"a":2}', b"--x\r\n\r\n--x--", b"[" * 100_000),
    *(b'{"payload": 1e400}', b'{"payload": "\\ud800"}', b'{"payload": "\xed\xa0\x80"}'),
    *(b'{"n":' + b"9" * 20_000 + b"}", gzip.compress(b'{"a": "' + b"x" * 20_000_000 + b'"}')),
]
#: The path of an event stream that never ends, so the tests skip it.
ELSEWHERE = "/api/async-events"


@pytest.fixture
async def whole(renewed: Renewed, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """The running API of a project with the routes of every example app."""
    # No worker replies to a chat, for which the API would wait this long.
    monkeypatch.setattr(sse, "BUFFERED_SECONDS", 0.1)
    project = project_of_a_file(renewed, guests=True)
    async with serving_api(project) as made:
        made.engine.register(lease_seconds=60)
        yield made


@pytest.fixture
async def document(whole: Api) -> Json:
    return (await whole.call("GET", "/api/openapi.json", user=None)).json()


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item and not path.startswith(ELSEWHERE):
                yield method, path, item[method]


@pytest.mark.weekly(only=True)
async def test_the_document_is_valid(document: Json) -> None:
    from openapi_spec_validator import validate  # slow, and used only here

    validate(document)


async def test_every_operation_says_who_may(whole: Api, document: Json) -> None:
    """An operation that declares required security returns 401 without a token.

    Every operation that declares security also declares status 429.
    """
    assert {"/api/jobs", "/api/jobs/{job_id}"} <= set(document["paths"])
    for method, path, operation in operations(document):
        parts = (ACME if part.startswith("{") else part for part in path.split("/"))
        answer = await whole.call(method, "/".join(parts), user=None)

        security = operation.get("security", [])
        # In OpenAPI, the security requirement {} means that the token is optional.
        closed = bool(security) and {} not in security
        assert (answer.status_code == 401) is closed, (method, path, answer.text)
        if closed:
            assert answer.json()["error"] == "Unauthorized"
            assert set(answer.json()) == {"error", "code", "detail", "request_id"}
        if security:
            assert "429" in operation["responses"], (method, path)


class Maker:
    """Generator of random values that usually match a JSON schema and sometimes do not."""

    def __init__(self, document: Json, seed: str, known: Mapping[str, str]) -> None:
        self._document = document
        self._random = random.Random(seed)
        self._known = known

    def value(self, schema: Json, name: str = "", depth: int = 0) -> Any:
        dice = self._random
        if dice.random() < 0.06:
            return dice.choice(ODD_VALUES)
        if "$ref" in schema:
            parts = schema["$ref"].removeprefix("#/").split("/")
            return self.value(reduce(getitem, parts, self._document), name, depth + 1)
        for union in ("anyOf", "oneOf", "allOf"):
            if union in schema:
                return self.value(dice.choice(schema[union]), name, depth)
        if choice := schema.get("enum", [schema["const"]] if "const" in schema else []):
            return dice.choice(choice)
        if name in self._known and dice.random() < 0.7:
            return self._known[name]
        kind = schema.get("type", "object")
        match dice.choice(kind) if isinstance(kind, list) else kind:
            case "object":
                required = set(schema.get("required", ()))
                return {
                    each: self.value(its, each, depth + 1)
                    for each, its in schema.get("properties", {}).items()
                    if each in required or (depth < 4 and dice.random() < 0.3)
                }
            case "array":
                count = schema.get("minItems", 0) + dice.randint(0, 2)
                return [self.value(schema.get("items", {}), "", depth + 1) for _ in range(count)]
            case "string":
                expected = "pattern" if "pattern" in schema else schema.get("format")
                if expected in TEXTS:
                    return dice.choice(TEXTS[expected])
                length = schema.get("minLength", 0) + dice.randint(0, 8)
                return "".join(dice.choices(string.ascii_letters + "äß%_*", k=length))
            case "integer" | "number":
                least = int(schema.get("minimum", 0))
                return dice.randint(least, min(int(schema.get("maximum", 1000)), least + 100))
            case "boolean":
                return dice.random() < 0.5
        return None


def request_for(maker: Maker, path: str, operation: Json) -> tuple[str, Json]:
    url, query, headers = path, {}, {}
    for parameter in operation.get("parameters", ()):
        value = maker.value(parameter["schema"], parameter["name"])
        if parameter["in"] == "path":
            text = str(value).replace("/", "").replace(".", "") or "x"
            url = url.replace(f"{{{parameter['name']}}}", text)
        elif parameter["in"] == "query" and value is not None and maker.value({"type": "boolean"}):
            query[parameter["name"]] = value if isinstance(value, list) else str(value)
        elif parameter["in"] == "header" and isinstance(value, str) and value.isascii():
            headers[parameter["name"]] = value or "x"
    more: Json = {"params": query, "headers": headers}
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        more["json"] = maker.value(content["application/json"]["schema"])
    return url, more


async def test_whatever_is_sent_the_answer_is_one_the_document_knows(
    whole: Api, document: Json
) -> None:
    """A random request gets a status and a body that the OpenAPI document describes.

    A request that names another tenant's job or workspace does not read or change that tenant's
    data.
    """
    engine, secret = whole.engine, "s3cr3t"
    other = engine.enqueue({"text": secret}, workspace=GLOBEX, tags=[secret], session_id=secret)
    before = engine.job(other)
    mine = {"job_id": engine.enqueue(), "workspace_id": ACME, "job_type": "work"}
    theirs = {**mine, "job_id": other, "workspace_id": GLOBEX}
    rounds = ((ADA, mine), (ADA, mine), (ADA, theirs), (None, theirs))
    limit = asyncio.Semaphore(4)
    answered: Counter[int] = Counter()
    wrong: list[str] = []

    async def once(method: str, path: str, operation: Json, round_: int) -> None:
        user, known = rounds[round_]
        maker = Maker(document, f"{method} {path} {round_}", known)
        url, more = request_for(maker, path, operation)
        async with limit:
            response = await whole.call(method, url, user=user, **more)
        where = f"{method.upper()} {url} {more} -> {response.status_code} {response.text[:400]}"
        answered[response.status_code] += 1
        if secret in response.text or (response.is_success and GLOBEX in response.text):
            wrong.append(f"another's: {where}")
        described = operation["responses"].get(str(response.status_code))
        # On a busy machine the readiness check may return 503. File routes return 503 because the
        # test configures no storage bucket.
        unready = response.status_code == 503
        if (response.status_code >= 500 and not unready) or described is None:
            wrong.append(where)
        else:
            wrong.extend(f"{where}: {e}" for e in deviations(document, described, response))

    await asyncio.gather(
        *(
            once(method, path, operation, round_)
            for method, path, operation in operations(document)
            if method == "get" or not path.endswith("/events")
            if not path.endswith("/stream")
            for round_ in range(len(rounds))
        )
    )
    assert engine.job(other) == before
    assert not wrong, "\n".join(wrong)
    assert min(answered[200], answered[422]) > 20


async def test_an_odd_address_header_or_body_is_no_fault_of_ours(
    whole: Api, document: Json
) -> None:
    """A malformed request never gets a status of 500 or above, unless it is 503."""
    dice = random.Random(7)
    answered: Counter[int] = Counter()
    for method, path, _ in [*operations(document)] * 2:
        if path.endswith(("/events", "/stream")):
            continue
        fillers = dice.choice([ODD_TEXTS, [ACME]])
        parts = (dice.choice(fillers) if "{" in part else part for part in path.split("/"))
        odd = {dice.choice(ODD_HEADERS): dice.choice(ODD_TEXTS).encode() for _ in range(2)}
        response = await whole.call(
            dice.choice([method, method, method, "HEAD", "TRACE"]),
            "/".join(parts),
            headers=odd,
            params={dice.choice(ODD_TEXTS): dice.choice(ODD_TEXTS)},
            content=dice.choice(ODD_BODIES),
        )

        answered[response.status_code] += 1
        assert response.status_code in {*range(500), 503}, (path, odd, response.text[:400])
    assert len(answered) > 5


def deviations(document: Json, described: Json, response: httpx.Response) -> list[str]:
    content = described.get("content", {})
    kind = response.headers.get("content-type", "").partition(";")[0]
    if response.status_code == 204:
        return ["a body"] if response.content else []
    if kind not in content and not (kind == "application/json" and not content):
        return [f"the type {kind}"]
    if kind != "application/json" or "schema" not in content.get(kind, {}):
        return []
    schema = {**content[kind]["schema"], "components": document["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(response.json())]
