"""Rules of the app factory for every route: error bodies, limits, headers."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.web.application import create_app
from minutehand.web.errors import ApiError
from minutehand.web.request_bodies import MAX_BODY_BYTES, Body, Payload
from minutehand.web.services import Services
from tests.unit.web.conftest import SETTINGS, calling, error_of

QUOTA = QueueError("too many", status=429, code="PT429", details="100", hint="quota_exceeded")
BUSY = QueueError("busy", status=429, code="PT429", details='{"a": 1}', hint="job_busy")
LOCKED = QueueUnavailable("canceling statement", status=500, code="55P03")
COLUMN = QueueError("column secret_column", status=400, code="22P02")
CLOSED = QueueError("billing is closed", status=400, code="P0001")
GRANT = QueueError("permission denied for function enqueue_job", status=403, code="42501")
LACKING = QueueError("of function x", status=404, code="42883")
EXPIRED = TokenRefused("JWT expired", status=401, code="PGRST301")
#: For each error that a route raises: the status, code and detail of the response.
ERRORS: dict[str, tuple[Exception, int, str, Any]] = {
    "planned": (ApiError(409, "in_the_way", "It is", detail={"a": 1}), 409, "in_the_way", {"a": 1}),
    "unplanned": (RuntimeError("the password is hunter2"), 500, "internal_error", None),
    "unavailable": (QueueUnavailable("no answer from 10.0.0.7"), 503, "unavailable", None),
    "quota": (QUOTA, 429, "quota_exceeded", {"limit": "100"}),
    "busy": (BUSY, 429, "job_busy", {"a": 1}),
    "token": (EXPIRED, 401, "unauthorized", "the database rejected the token"),
    "locked": (LOCKED, 429, "job_busy", {"retry_after_seconds": 1}),
    "outage": (QueueError("of function x", status=500, code="XX000"), 503, "unavailable", None),
    "lacking": (LACKING, 503, "unavailable", None),
    "sqlstate": (COLUMN, 400, "invalid_argument", {"sqlstate": "22P02"}),
    "trigger": (CLOSED, 400, "invalid_argument", {"sqlstate": "P0001"}),
    "grant": (GRANT, 403, "forbidden", {"sqlstate": "42501"}),
}


class Thing(Body):
    name: str
    count: int = 0
    payload: Payload | None = None


def _router() -> APIRouter:
    router = APIRouter(prefix="/api")

    @router.get("/things/{thing_id}")
    async def get_thing(thing_id: int, limit: int = 1) -> dict[str, int]:
        return {"id": thing_id, "limit": limit}

    @router.post("/things")
    async def post_thing(thing: Thing) -> Thing:
        return thing

    @router.post("/raw")
    async def post_raw(request: Request) -> dict[str, int]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return {"bytes": size}

    @router.get("/errors/{name}")
    async def fail(name: str) -> None:
        raise ERRORS[name][0]

    return router


@pytest.fixture
def app() -> FastAPI:
    return create_app(Services(SETTINGS), [_router()], body_limits={"/api/raw": 2 * MAX_BODY_BYTES})


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(app) as client:
        yield client


async def test_no_answer_leads_to_the_host_that_a_caller_names(api: httpx.AsyncClient) -> None:
    """A request with a forged Host header is not redirected to that host."""
    answer = await api.get("/api/things/1/", headers={"host": "evil.example"})

    assert (answer.status_code, answer.headers.get("location")) == (404, None)


@pytest.mark.parametrize("name", ERRORS)
async def test_every_error_has_the_common_body_and_no_secrets(
    api: httpx.AsyncClient, name: str
) -> None:
    """Every error has the common body with code and detail, and shows no internal text."""
    _, status, code, detail = ERRORS[name]

    response = await api.get(f"/api/errors/{name}")

    assert response.status_code == status
    body = error_of(response)
    assert (body["code"], body["detail"]) == (code, detail)
    for inside in ("hunter2", "Traceback", "10.0.0.7", "secret_column", "function x"):
        assert inside not in response.text
    assert ("billing is closed" in response.text) == (name == "trigger")
    assert ("function enqueue_job is missing" in response.text) == (name == "grant")
    wait = "1" if code == "job_busy" else "5" if status in {429, 503} else None
    assert response.headers.get("retry-after") == wait
    if status == 401:
        assert response.headers["www-authenticate"].startswith("Bearer ")
        assert response.json()["error"] == "Unauthorized"


async def test_a_422_names_the_field_and_not_its_value(api: httpx.AsyncClient) -> None:
    """A 422 names the invalid field but not its value, which may be a secret."""
    response = await api.post("/api/things", json={"name": 5, "count": "sk-secret-value"})

    body = error_of(response)
    assert [problem["field"] for problem in body["detail"]] == ["name", "count"]
    assert "sk-secret-value" not in response.text
    [in_path] = error_of(await api.get("/api/things/abc"))["detail"]
    assert (in_path["field"], in_path["location"]) == ("thing_id", "path")
    many = await api.post("/api/things", json={f"k{n}": n for n in range(500)})
    assert len(error_of(many)["detail"]) == 100


@pytest.mark.parametrize("content_type", ["application/json", "application/octet-stream"])
async def test_a_body_without_a_length_is_counted_while_it_is_read(
    app: FastAPI, content_type: str
) -> None:
    """A chunked request body is read up to the limit only, and then gets 413."""
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
    assert error_of(response)["detail"] == {
        "limit_bytes": MAX_BODY_BYTES if path == "/api/things" else 2 * MAX_BODY_BYTES
    }


@pytest.mark.parametrize("path", ["/api/things/1", "/nowhere", "/api/errors/unplanned"])
async def test_an_allowed_origin_may_read_even_errors(api: httpx.AsyncClient, path: str) -> None:
    """A response has CORS headers for an allowed origin, also if it is an error."""
    allowed = await api.get(path, headers={"origin": "https://app.example.com"})
    stranger = await api.get(path, headers={"origin": "https://evil.example"})

    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in stranger.headers
    assert allowed.headers["x-content-type-options"] == "nosniff"
    assert allowed.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("value", ["NaN", "1e400", r'"\ud800"', "[" * 300 + "]" * 300, '"\xff"'])
async def test_json_that_postgres_cannot_store_is_refused(
    api: httpx.AsyncClient, value: str
) -> None:
    """A JSON body that Postgres cannot store gets 400 or 422 instead of 500."""
    content = b'{"name": "x", "payload": {"a": ' + value.encode("latin-1") + b"}}"

    answer = await api.post("/api/things", content=content)

    assert answer.status_code in {400, 422}
    assert error_of(answer)["code"] in {"invalid_json", "validation_failed"}
