"""What the app factory promises for every route: error bodies, limits, headers, one log line."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import (
    AnyUrl,
    AwareDatetime,
    BaseModel,
    Field,
    HttpUrl,
    Json,
    TypeAdapter,
    ValidationError,
    create_model,
)
from starlette.exceptions import HTTPException

from minutehand.config import ConfigurationError, Settings
from minutehand.queue import guests
from minutehand.queue.data_api import STREAM_CONNECTIONS, DataApi
from minutehand.queue.errors import (
    DatabaseReadOnly,
    DuplicateJob,
    InvalidState,
    QueueError,
    QueueUnavailable,
    TokenRefused,
)
from minutehand.web.application import create_app
from minutehand.web.auth import SignedIn
from minutehand.web.bodies import MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, BoundedBody, Payload
from minutehand.web.context import ErrorBoundary, choose_request_id
from minutehand.web.errors import (
    ApiError,
    invalid_argument,
    not_found,
    token_missing,
    unauthorized,
    unavailable,
)
from minutehand.web.foreign import standing_on
from minutehand.web.handlers import respond
from minutehand.web.services import Services
from minutehand.web.wording import problem_of
from tests.unit.web.conftest import calling


def refused(kind: type[QueueError], status: int, word: str, details: str) -> QueueError:
    """A refusal as the queue's client raises it."""
    return kind("refused", status=status, code=f"PT{status}", details=details, hint=word)


ERRORS: dict[str, Exception] = {
    "planned": ApiError(409, "in_the_way", "Something is in the way", detail={"status": "failed"}),
    "unplanned": RuntimeError("the password is hunter2"),
    "unavailable": QueueUnavailable("no answer from 10.0.0.7"),
    "duplicate": DuplicateJob(
        "there already", status=409, code="PT409", details="id-1", hint="duplicate_job"
    ),
    "state": InvalidState(
        "it has ended", status=409, code="PT409", details="completed", hint="invalid_state"
    ),
    "idempotency": refused(QueueError, 409, "idempotency_conflict", "id-1"),
    "workspace": refused(QueueError, 422, "workspace_needed", '[{"id": "w"}]'),
    "read_only": DatabaseReadOnly("read-only: run this"),
    "framework": HTTPException(403, "not today"),
    "quota": QueueError("too many", status=429, code="PT429", details="100", hint="quota_exceeded"),
    "payload": QueueError(
        "is not text", status=422, code="PT422", details="payload.domain", hint="payload_invalid"
    ),
    "token": TokenRefused("JWT expired", status=401, code="PGRST301"),
    "schema": QueueError("no function x", status=404, code="PGRST202"),
    "outage": QueueError("of function x", status=500, code="XX000"),
    "sqlstate": QueueError("column secret_column", status=400, code="22P02"),
    "forbidden": QueueError("on secret_column", status=403, code="42501"),
    "missing": QueueError("secret_column", status=404, code="P0002"),
    "taken": QueueError("secret_column", status=409, code="23505"),
}


class Thing(BaseModel):
    name: str
    count: int = 0
    payload: Payload = {}


class Size(StrEnum):
    SMALL = "s"
    MEDIUM = "m"


@dataclass
class Line:
    length: int


class Strict(BaseModel):
    name: str = Field(max_length=3)
    count: int = Field(default=0, le=9)
    payload: Payload = {}
    tags: Annotated[tuple[str, ...], Field(max_length=1)] = ()
    owner: UUID | None = None
    at: AwareDatetime | None = None
    size: Literal["s", "m"] = "m"


def of_parent(of: str = "") -> str:
    """A parameter that a route takes through what it depends on."""
    return of


def _router() -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.get("/things/{thing_id}")
    async def get_thing(thing_id: int, limit: int = 1) -> dict[str, int]:
        return {"id": thing_id, "limit": limit}

    @router.get("/list")
    async def list_things(
        of: Annotated[str, Depends(of_parent)], kind: str = "", limit: int = 1
    ) -> dict[str, str]:
        return {"kind": kind}

    @router.post("/things")
    async def post_thing(thing: Thing) -> Thing:
        return thing

    @router.post("/strict")
    async def post_strict(strict: Strict) -> Strict:
        return strict

    @router.post("/raw")
    async def post_raw(request: Request) -> dict[str, int]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return {"bytes": size}

    @router.get("/own")
    async def own() -> Response:
        return Response(headers={"cache-control": "max-age=9"})

    @router.get("/errors/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name]

    @router.get("/mine")
    async def mine(caller: SignedIn) -> dict[str, str]:
        return {"id": str(caller.subject)}

    return router


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(Services(settings), [_router()], body_limits={"/api/raw": 2 * MAX_BODY_BYTES})


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(app) as client:
        yield client


def test_an_app_knows_its_services_and_describes_itself(app: FastAPI, settings: Settings) -> None:
    """Routes find the one, and the reference is made from the other."""
    document = app.openapi()

    assert app.state.services.settings is settings
    assert document is app.openapi()
    assert document["info"]["version"] == settings.version
    assert "/api/things" in document["paths"]
    assert "ErrorBody" in document["components"]["schemas"]


def body_of(response: httpx.Response) -> dict[str, Any]:
    """The error body, whole and matching its header."""
    body: dict[str, Any] = response.json()
    assert set(body) == {"error", "code", "detail", "request_id"}
    assert isinstance(body["error"], str)
    assert body["error"]
    assert body["code"] == body["code"].lower().replace(" ", "_")
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@pytest.mark.parametrize(
    ("name", "status", "code", "detail"),
    [
        ("planned", 409, "in_the_way", {"status": "failed"}),
        ("unplanned", 500, "internal_error", None),
        ("unavailable", 503, "unavailable", None),
        ("read_only", 503, "database_read_only", None),
        ("framework", 403, "forbidden", None),
        ("duplicate", 409, "duplicate_job", {"job_id": "id-1"}),
        ("idempotency", 409, "idempotency_conflict", {"job_id": "id-1"}),
        ("state", 409, "invalid_state", {"status": "completed"}),
        ("workspace", 422, "workspace_needed", {"workspaces": [{"id": "w"}]}),
        ("quota", 429, "quota_exceeded", {"limit": "100"}),
        (
            "payload", 422, "payload_invalid",
            [{"field": "payload.domain", "problem": "is not text", "location": "body"}],
        ),
        ("token", 401, "unauthorized", "the database refused the token"),
        ("schema", 503, "unavailable", None),
        ("outage", 503, "unavailable", None),
        ("sqlstate", 400, "invalid_argument", {"sqlstate": "22P02"}),
        ("forbidden", 403, "forbidden", {"sqlstate": "42501"}),
        ("missing", 404, "not_found", {"sqlstate": "P0002"}),
        ("taken", 409, "conflict", {"sqlstate": "23505"}),
    ],
)  # fmt: skip
async def test_every_error_has_the_common_body_and_no_secrets(
    api: httpx.AsyncClient, name: str, status: int, code: str, detail: Any
) -> None:
    """One shape for clients, who act on ids and states; nothing about the inside for anyone."""
    response = await api.get(f"/api/errors/{name}")

    assert response.status_code == status
    body = body_of(response)
    assert (body["code"], body["detail"]) == (code, detail)
    for inside in ("hunter2", "Traceback", "10.0.0.7", "secret_column", "function x"):
        assert inside not in response.text
    wait = {"read_only": "60"}.get(name, "5" if status in {429, 503} else None)
    assert response.headers.get("retry-after") == wait
    if status == 401:
        assert response.headers["www-authenticate"].startswith("Bearer ")
        assert response.json()["error"] == "Unauthorized"


async def test_an_unplanned_error_is_logged_once_with_its_trace(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The trace is for the log, and twice would look like two failures."""
    with caplog.at_level(logging.INFO):
        await api.get("/api/errors/unplanned")

    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.__dict__["event"] for record in failures] == ["http.failed"]
    assert failures[0].exc_info is not None
    [line] = [r for r in caplog.records if r.__dict__.get("event") == "http.request"]
    assert (line.__dict__["status"], line.__dict__["route"]) == (500, "/api/errors/{name}")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "route_not_found"),
        *(
            ("GET", f"/{page}", 404, "route_not_found")
            for page in ("docs", "redoc", "openapi.json")
        ),
        ("DELETE", "/api/things", 405, "method_not_allowed"),
        ("GET", "/api/things/abc", 422, "validation_failed"),
        ("GET", "/api/things/1?limit=x", 422, "validation_failed"),
        ("GET", "/api/things/1?limit=%00", 400, "invalid_argument"),
        ("GET", "/api/errors/%00", 400, "invalid_argument"),
        ("GET", "/api/mine", 401, "unauthorized"),
    ],
)
async def test_requests_that_miss_are_answered_in_the_common_body(
    api: httpx.AsyncClient, method: str, path: str, status: int, code: str
) -> None:
    """Also what the framework answers by itself."""
    response = await api.request(method, path)

    assert response.status_code == status
    assert body_of(response)["code"] == code
    if status == 405:
        assert response.headers["allow"] == "POST"


async def test_a_422_names_the_field_and_not_its_value(api: httpx.AsyncClient) -> None:
    """The value may be a key somebody pasted into the wrong field."""
    response = await api.post("/api/things", json={"name": 5, "count": "sk-secret-value"})

    body = body_of(response)
    assert [problem["field"] for problem in body["detail"]] == ["name", "count"]
    assert body["error"] == "name: must be text (and 1 more)"
    assert "sk-secret-value" not in response.text
    in_path = body_of(await api.get("/api/things/abc"))["detail"]
    problem = "must be a whole number"
    assert in_path == [{"field": "thing_id", "problem": problem, "location": "path"}]


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"type": "value_error", "msg": "Value error, omit it"}, "omit it"),
        ({"type": "assertion_error", "msg": "Assertion failed, omit it"}, "omit it"),
        ({"type": "too_short", "ctx": {"min_length": 10}}, "must have at least 10 items"),
        ({"type": "too_short"}, "is not valid"),
        ({"type": "of_a_later_pydantic", "msg": "Input should be a tuple"}, "is not valid"),
    ],
)
def test_a_problem_is_said_in_our_own_words_alone(found: dict[str, Any], problem: str) -> None:
    """Pydantic's speak of Python, and change with it."""
    assert problem_of(found) == problem


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (Strict, {}, "is required"),
        (create_model("Closed", __config__={"extra": "forbid"}), {"x": 1},
         "is not a field of this request"),
        (str, 1, "must be text"),
        (str, b"\xff", "must be UTF-8 text"),
        (Annotated[str, Field(min_length=2)], "", "must have at least 2 characters"),
        (Annotated[str, Field(min_length=1)], "", "must have at least 1 character"),
        (Annotated[str, Field(max_length=2)], "abc", "must have at most 2 characters"),
        (Annotated[str, Field(pattern="^a$")], "b", "must match ^a$"),
        (int, [], "must be a whole number"),
        (int, "x", "must be a whole number"),
        (int, "9" * 5000, "is too large a number"),
        (int, 1.5, "must be a whole number"),
        (float, [], "must be a number"),
        (float, "x", "must be a number"),
        (Annotated[float, Field(allow_inf_nan=False)], math.inf, "must be a finite number"),
        (Annotated[int, Field(gt=2)], 2, "must be more than 2"),
        (Annotated[int, Field(ge=2)], 1, "must be at least 2"),
        (Annotated[int, Field(lt=2)], 2, "must be less than 2"),
        (Annotated[int, Field(le=2)], 3, "must be at most 2"),
        (Annotated[int, Field(multiple_of=2)], 3, "must be a multiple of 2"),
        (bool, [], "must be true or false"),
        (bool, "x", "must be true or false"),
        (None, 1, "must be null"),
        (dict[str, int], [], "must be an object"),
        (Mapping[str, int], [], "must be an object"),
        (Strict, [], "must be an object"),
        (Line, 1, "must be an object"),
        (list[int], 1, "must be a list"),
        (tuple[int, ...], 1, "must be a list"),
        (set[int], 1, "must be a list"),
        (frozenset[int], 1, "must be a list"),
        (Iterable[int], 1, "must be a list"),
        (Annotated[list[int], Field(min_length=2)], [], "must have at least 2 items"),
        (Annotated[list[int], Field(max_length=1)], [1, 2], "must have at most 1 item"),
        (Size, "l", "must be 's' or 'm'"),
        (Literal["s", "m"], "l", "must be 's' or 'm'"),
        (UUID, 1, "must be an id: 32 hexadecimal digits, as a UUID has them"),
        (UUID, "x", "must be an id: 32 hexadecimal digits, as a UUID has them"),
        (AwareDatetime, "2026-11-20T12:00:00", "must name its zone, as in 2026-11-20T12:00:00Z"),
        (AwareDatetime, "x", "must be an ISO 8601 instant with a zone, as 2026-11-20T12:00:00Z"),
        (AnyUrl, 1, "must be a URL"),
        (AnyUrl, "x", "must be a URL"),
        (HttpUrl, "ftp://x", "must be a URL that begins with 'http' or 'https'"),
        (HttpUrl, "http://" + "x" * 3000, "must be a URL of at most 2083 characters"),
        (Json, 1, "must be JSON text"),
        (Json, "{", "is not valid JSON"),
        (complex, "x", "is not valid"),
    ],
)  # fmt: skip
def test_each_problem_has_words_of_its_own(kind: Any, value: object, problem: str) -> None:
    """What pydantic finds is told as a sender of JSON would say it."""
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(kind).validate_python(value)

    assert problem_of(refused.value.errors()[0]) == problem


@pytest.mark.parametrize(
    ("error", "status", "code", "detail", "headers"),
    [
        (invalid_argument("at", "is over", location="query"), 400, "invalid_argument",
         [{"field": "at", "problem": "is over", "location": "query"}], {}),
        (invalid_argument("at", "is over"), 400, "invalid_argument",
         [{"field": "at", "problem": "is over", "location": "body"}], {}),
        (unauthorized("it ended", presented=True), 401, "unauthorized", "it ended",
         {"WWW-Authenticate": 'Bearer realm="minutehand", error="invalid_token", '
                              'error_description="it ended"'}),
        (token_missing(), 401, "unauthorized", "send a user's access token as a bearer token",
         {"WWW-Authenticate": 'Bearer realm="minutehand"'}),
        (not_found(), 404, "job_not_found", None, {}),
        (not_found("session"), 404, "session_not_found", None, {}),
        (unavailable("away"), 503, "unavailable", None, {"Retry-After": "5"}),
        (unavailable("away", retry_after=0), 503, "unavailable", None, {"Retry-After": "1"}),
    ],
)  # fmt: skip
def test_a_planned_refusal_says_what_its_receiver_can_act_on(
    error: ApiError, status: int, code: str, detail: object, headers: dict[str, str]
) -> None:
    """A field, what to send, or when to come back."""
    assert (error.status_code, error.code, error.info) == (status, code, detail)
    assert error.headers == headers
    assert error.detail == error.error


@pytest.mark.parametrize(
    ("word", "details", "detail", "after"),
    [
        ("quota_exceeded", "max_events", b'{"limit":"max_events"}', "5"),
        (
            "rate_limited",
            '{"limit": "enqueues", "retry_after_seconds": 7}',
            b'{"limit":"enqueues","retry_after_seconds":7}',
            "7",
        ),
        ("rate_limited", '{"retry_after_seconds": 0}', b'{"retry_after_seconds":0}', "1"),
        ("rate_limited", '{"retry_after_seconds": 2.5}', b'{"retry_after_seconds":2.5}', "2"),
        ("rate_limited", "what is this", b'{"limit":"what is this"}', "5"),
        ("rate_limited", "[7]", b'{"limit":"[7]"}', "5"),
        ("unknown_job_type", "job_type", b'"detail":[{"field":"job_type"', "5"),
        ("of_a_later_release", "what of it", b'"detail":"what of it"', "5"),
    ],
)
def test_a_refusal_of_the_queue_names_its_limit(
    word: str, details: str, detail: bytes, after: str
) -> None:
    """And says when to come back."""
    error = QueueError("too many", status=429, code="PT429", details=details, hint=word)

    response = respond(error)

    assert response is not None
    assert response.status_code == 429
    assert detail in bytes(response.body)
    assert response.headers["retry-after"] == after


@pytest.mark.parametrize(
    "content",
    [
        b"{bad",
        b"",
        b'{"name": "x"} trailing',
        b'{"name": NaN}',
        b'{"name": "x", "payload": {"n": Infinity}}',
        b'{"name": "x", "payload": {"n": 1e999}}',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "\\u0000"}',
        b'{"name": "x", "payload": {"\\u0000": 1}}',
        b'{"name": "x", "payload": {"a":' + b"[" * 63 + b"]" * 63 + b"}}",
        b"[" * 200_000,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
)
async def test_json_that_could_not_be_stored_is_a_400_or_422(
    api: httpx.AsyncClient, content: bytes
) -> None:
    """NaN, NUL, broken surrogates and bottomless nesting would fail in the database as a 500."""
    response = await api.post(
        "/api/things", content=content, headers={"content-type": "application/json"}
    )

    assert response.status_code == (422 if content == b"" else 400)
    body_of(response)


@pytest.mark.parametrize(
    "value",
    [b"[" * 62 + b"]" * 62, b"[" + b"[]," * 99 + b"[]]", b"[" * 62 + b"]" * 62 + b',"b":[]'],
)
async def test_json_of_64_levels_and_any_number_of_shallow_lists_pass(
    api: httpx.AsyncClient, value: bytes
) -> None:
    """Its depth is bounded, and not its breadth."""
    response = await api.post("/api/things", content=b'{"name":"x","payload":{"a":%b}}' % value)

    assert response.status_code == 200


async def test_escaped_pairs_and_harmless_escapes_pass(api: httpx.AsyncClient) -> None:
    """An emoji is a surrogate pair in JSON, and a backslash may precede the text u0000."""
    content = b'{"name": "\\ud83d\\ude00 \\\\u0000 \\\\ud800"}'

    response = await api.post("/api/things", content=content)

    assert response.status_code == 200
    assert response.json()["name"] == "\U0001f600 \\u0000 \\ud800"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("application/vnd.example+json", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain", 200),
        ("text/csv", 415),
        ("application/xml", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_what_curl_sends_is_taken_as_json_and_other_types_are_refused(
    api: httpx.AsyncClient, content_type: str | None, status: int
) -> None:
    """`curl -d` names a form type unless given."""
    headers = {"content-type": content_type} if content_type else {}

    response = await api.post("/api/things", content=b'{"name": "x"}', headers=headers)

    assert response.status_code == status
    if status == 415:
        assert body_of(response)["code"] == "unsupported_media_type"


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
@pytest.mark.parametrize("content", [b"name=x&count=1", b"x", b"--", b"\xff\xfe"])
async def test_a_form_is_a_form_and_not_broken_json(
    api: httpx.AsyncClient, content_type: str | None, content: bytes
) -> None:
    """Who sends a form is told of the type, not of a position in it."""
    headers = {"content-type": content_type} if content_type else {}

    response = await api.post("/api/things", content=content, headers=headers)

    assert response.status_code == 415
    assert body_of(response)["code"] == "unsupported_media_type"
    assert "application/json" in body_of(response)["error"]


@pytest.mark.parametrize(
    ("content", "position"), [(b'{"name": ', 9), (b"[1", 2), (b'"x', 0), (b" {name: 1}", 2)]
)
async def test_broken_json_is_reported_where_it_breaks_whatever_its_type(
    api: httpx.AsyncClient, content: bytes, position: int
) -> None:
    """`curl -d` again: its user meant JSON."""
    response = await api.post(
        "/api/things",
        content=content,
        headers={"content-type": "application/x-www-form-urlencoded"},
    )

    assert response.status_code == 400
    body = body_of(response)
    assert (body["code"], body["detail"]["position"]) == ("invalid_json", position)


@pytest.mark.parametrize(
    ("body", "field", "problem"),
    [
        ({}, "name", "is required"),
        ({"name": 1}, "name", "must be text"),
        ({"name": "long"}, "name", "must have at most 3 characters"),
        ({"name": "x", "count": "many"}, "count", "must be a whole number"),
        ({"name": "x", "count": 10}, "count", "must be at most 9"),
        ({"name": "x", "tags": "one"}, "tags", "must be a list"),
        ({"name": "x", "tags": ["a", "b"]}, "tags", "must have at most 1 item"),
        ({"name": "x", "payload": []}, "payload", "must be an object"),
        (
            {"name": "x", "owner": "me"},
            "owner",
            "must be an id: 32 hexadecimal digits, as a UUID has them",
        ),
        (
            {"name": "x", "at": "soon"},
            "at",
            "must be an ISO 8601 instant with a zone, as 2026-11-20T12:00:00Z",
        ),
        ({"name": "x", "size": "xl"}, "size", "must be 's' or 'm'"),
        ([], "body", "must be an object"),
    ],
)  # fmt: skip
async def test_a_field_that_is_wrong_is_reported_in_plain_words(
    api: httpx.AsyncClient, body: Any, field: str, problem: str
) -> None:
    """Nobody outside knows of tuples, dictionaries and inputs."""
    response = await api.post("/api/strict", json=body)

    assert response.status_code == 422
    refused = body_of(response)
    assert refused["error"] == f"{field}: {problem}"
    assert refused["detail"] == [{"field": field, "problem": problem, "location": "body"}]


async def test_a_list_refuses_a_parameter_it_does_not_know(api: httpx.AsyncClient) -> None:
    """A typing error in a filter would list everything; a probe's own parameter harms nothing."""
    response = await api.get("/api/list?knid=a&limit=1&zzz=1")

    assert response.status_code == 422
    near, far = body_of(response)["detail"]
    assert (near["field"], near["location"]) == ("knid", "query")
    assert near["problem"] == "is not a parameter of this list; did you mean kind?"
    assert far["problem"] == "is not a parameter of this list; it takes kind, limit, of"
    assert (await api.get("/api/list?kind=a&limit=1&of=b")).status_code == 200
    assert (await api.get("/api/errors/planned?now=1")).status_code == 409


async def test_a_body_over_the_limit_is_refused_before_it_is_read(app: FastAPI) -> None:
    """A declared length is believed when it is too large."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/things",
        "raw_path": b"/api/things",
        "query_string": b"",
        "headers": [(b"content-length", b"2000000"), (b"content-type", b"application/json")],
    }
    await app(scope, receive, send)  # type: ignore[arg-type]

    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["code"] == "body_too_large"


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
async def test_a_body_without_a_length_is_counted_while_it_is_read(
    app: FastAPI, content_type: str
) -> None:
    """Chunked bodies declare nothing; reading stops at the limit."""
    chunks = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks
        while chunks < 1000:
            chunks += 1
            yield b" " * 65536

    async with calling(app) as api:
        path = "/api/things" if content_type == "application/json" else "/api/raw"
        response = await api.post(path, content=endless(), headers={"content-type": content_type})

    assert response.status_code == 413
    assert body_of(response)["detail"] == {
        "limit_bytes": MAX_BODY_BYTES if path == "/api/things" else 2 * MAX_BODY_BYTES
    }


async def test_a_length_in_other_digits_is_none(api: httpx.AsyncClient) -> None:
    """`²` is a digit to Python, and no number."""
    response = await api.post(
        "/api/things", content=b'{"name": "x"}', headers=[(b"content-length", b"\xb2")]
    )

    assert response.status_code == 200


async def test_a_path_below_one_that_takes_more_takes_no_more(app: FastAPI) -> None:
    """A larger body is one route's."""
    async with calling(app) as api:
        response = await api.post("/api/raw/x", content=b" " * (MAX_BODY_BYTES + 1))

    assert response.status_code == 413


async def test_a_guests_calls_know_where_the_request_came_from(settings: Settings) -> None:
    """The database counts guests by their addresses: else all would share one guest's limit."""
    router = APIRouter()

    @router.get("/address")
    async def address() -> str | None:
        return guests._address.get()

    transport = httpx.ASGITransport(
        create_app(Services(settings), [router]), client=("192.0.2.7", 1)
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://api.test") as api:
        answer = await api.get("/address")

    assert answer.json() == "192.0.2.7"
    assert guests._address.get() is None


async def test_a_body_is_handed_on_once() -> None:
    """What follows it is the client's leaving, which a stream in answer to it must notice."""
    taken = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        taken.extend([await receive() for _ in range(2)])

    left = {"type": "http.disconnect", "code": "as the server said it"}
    messages = iter([{"type": "http.request", "body": b"{}"}, left])

    async def receive() -> Any:
        return next(messages)

    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    await BoundedBody(app)(scope, receive, app)  # type: ignore[arg-type]

    assert [taken[0]["type"], taken[1]] == ["http.request", left], "no sooner than it is said"
    messages = iter(
        [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    )
    await BoundedBody(app)(scope, receive, app)  # type: ignore[arg-type]
    assert len(taken) == 2, "a body that its client did not finish reaches no route"


async def test_an_answer_that_has_begun_is_not_answered_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server refuses a second beginning; the first error is what an operator needs."""
    sent = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("halfway")

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await ErrorBoundary(app)({"type": "http", "method": "GET"}, send, send)  # type: ignore[arg-type]

    assert sent == ["http.response.start"]
    assert "halfway" in caplog.text


async def test_a_route_may_take_larger_bodies(api: httpx.AsyncClient) -> None:
    """Imports are streams; their limit stands beside their route."""
    response = await api.post(
        "/api/raw",
        content=b"x" * (2 * MAX_BODY_BYTES),
        headers={"content-type": "application/octet-stream"},
    )

    assert response.json() == {"bytes": 2 * MAX_BODY_BYTES}


async def test_a_payload_has_a_limit_of_its_own(api: httpx.AsyncClient) -> None:
    """256 KiB as JSON; larger things are stored and referred to."""
    response = await api.post("/api/things", json={"name": "x", "payload": {"a": "é" * 140_000}})

    assert response.status_code == 413
    assert body_of(response)["code"] == "payload_too_large"
    largest = {"a": "x" * (MAX_PAYLOAD_BYTES - len('{"a":""}'))}
    taken = await api.post("/api/things", json={"name": "x", "payload": largest})
    assert taken.json()["payload"] == largest
    assert taken.headers["content-encoding"] == "gzip"
    in_letters = {"name": "x", "payload": {"a": "é" * 130_000}}
    assert (await api.post("/api/things", json=in_letters)).status_code == 200, "counted in UTF-8"
    small = await api.post("/api/things", json={"name": "x" * 800})
    assert "content-encoding" not in small.headers, "it is one packet as it is"


@pytest.mark.parametrize(
    ("offered", "kept"),
    [
        ("order-4711-a", True),
        ("4bf92f3577b34da6a3ce929d0e0e4736", True),
        ("short", False),
        ("x" * 200, False),
        ("evil\tid-12345", False),
        ('{"a":"b"}12345', False),
    ],
)
async def test_a_sane_request_id_is_kept_and_any_other_replaced(
    api: httpx.AsyncClient, offered: str, kept: bool
) -> None:
    """It goes into logs and headers, so it must not carry anything in."""
    response = await api.get("/nowhere", headers={"x-request-id": offered})

    assert (response.headers["x-request-id"] == offered) is kept
    assert body_of(response)


@pytest.mark.parametrize(("own", "kept"), [("Zz8=gateway-1", True), ("short", False), (7, False)])
def test_a_request_without_an_id_has_the_gateways(own: object, kept: bool) -> None:
    """By it the gateway's log and ours are joined."""
    event = {"requestContext": {"requestId": own}}

    chosen = choose_request_id({"type": "http", "headers": [], "aws.event": event})

    assert (chosen == own) is kept
    assert len(chosen) >= 8


async def test_every_answer_carries_the_security_headers(api: httpx.AsyncClient) -> None:
    """Errors and successes alike."""
    for path in ("/api/things/1", "/nowhere", "/api/errors/unplanned"):
        headers = (await api.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "max-age" in headers["strict-transport-security"]
    assert (await api.get("/api/own")).headers["cache-control"] == "max-age=9"


@pytest.mark.parametrize("path", ["/api/things/1", "/nowhere", "/api/errors/unplanned"])
async def test_an_allowed_origin_may_read_even_errors(api: httpx.AsyncClient, path: str) -> None:
    """A browser hides an error without CORS headers, and people debug blind."""
    allowed = await api.get(path, headers={"origin": "https://app.example.com"})
    stranger = await api.get(path, headers={"origin": "https://evil.example"})

    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    exposed = {"X-Request-Id", "X-Session-Id", "Retry-After", "Location", "Idempotent-Replayed"}
    assert set(allowed.headers["access-control-expose-headers"].split(", ")) == exposed
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_a_preflight_is_answered_by_the_allow_list(
    api: httpx.AsyncClient, method: str
) -> None:
    """The strangers' answer has the common body too."""
    asked = {
        "access-control-request-method": method,
        "access-control-request-headers": "authorization,content-type,idempotency-key,"
        "last-event-id,x-request-id,x-session-id,traceparent",
    }

    allowed = await api.options(
        "/api/things", headers={"origin": "https://app.example.com", **asked}
    )
    stranger = await api.options("/api/things", headers={"origin": "https://evil.example", **asked})

    assert allowed.status_code == 200
    assert allowed.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in allowed.headers
    assert stranger.status_code == 403
    assert body_of(stranger)["code"] == "cors_forbidden"


fuzzed = hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
json_values = st.recursive(
    scalars.filter(lambda value: value not in {float("inf"), float("-inf")}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@fuzzed
@given(payload=st.dictionaries(texts, json_values, max_size=4), ascii=st.booleans())
async def test_any_storable_payload_passes_unchanged(
    app: FastAPI, payload: dict[str, Any], ascii: bool
) -> None:
    """The vetting refuses nothing that jsonb can hold, however it is escaped."""
    content = json.dumps({"name": "x", "payload": payload}, ensure_ascii=ascii).encode()

    async with calling(app) as api:
        response = await api.post("/api/things", content=content)

    assert response.status_code == 200
    assert response.json()["payload"] == payload


@fuzzed
@given(content=st.binary(max_size=300))
async def test_no_bytes_make_a_500(app: FastAPI, content: bytes) -> None:
    """Whatever arrives is the client's mistake."""
    async with calling(app) as api:
        response = await api.post("/api/things", content=content)

    assert response.status_code in {400, 415, 422}
    body_of(response)


class AwsError(Exception):
    """As botocore raises them."""

    __module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("KEY", "must be set", "x"), "not_configured"),
        (AwsError("timed out"), "unavailable"),
    ],
)
def test_a_service_that_a_route_needs_is_said_to_be_away(error: Exception, code: str) -> None:
    """Its own errors stay what they are."""
    with pytest.raises(ApiError) as refused, standing_on("the key service"):
        raise error
    with pytest.raises(ValueError, match="its own"), standing_on("the key service"):
        raise ValueError("its own")

    assert (refused.value.status_code, refused.value.code) == (503, code)
    assert "the key service" in refused.value.error.lower()


async def test_what_services_hold_is_made_once_and_closed_with_the_app(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation of secrets makes them again; what it left open would add up."""
    services = Services(settings)
    closed: list[object] = []

    async def close(each: object) -> None:
        closed.append(each)

    class Held:
        aclose = close

    held = services.provide(Held, Held)
    for each in (services.hub, services.queue, services._streams):
        monkeypatch.setattr(each, "aclose", partial(close, each))
    app = create_app(services, [])
    async with app.router.lifespan_context(app):
        assert services.provide(Held, Held) is held
        assert closed == []

    assert closed == [services.hub, held, services._streams, services.queue]


def test_streams_have_connections_of_their_own_to_the_same_schema(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many are open, a route gets one; an operator sees what routes meet."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(
        DataApi, "__init__", lambda _, url, **options: made.append({"url": url, **options})
    )
    named = settings.model_copy(update={"schema_name": "own"})

    services = Services(named)
    _ = services.operator_queue

    of_routes = {"url": settings.supabase_url, "schema": "own"}
    assert made == [of_routes, {**of_routes, "connections": STREAM_CONNECTIONS}]


def test_a_deployment_without_a_key_for_the_queues_health_says_so(settings: Settings) -> None:
    """Its API works all the same."""
    without = settings.model_copy(update={"supabase_jwt_secret": None})
    with pytest.raises(ApiError) as refused:
        _ = Services(without).operator_queue

    assert (refused.value.status_code, refused.value.code) == (503, "not_configured")
