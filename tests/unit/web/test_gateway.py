"""API Gateway's events: the path that the route matched, and what preceded it in what we answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minutehand import telemetry
from minutehand.config import Settings
from minutehand.web.gateway import GatewayHandler
from minutehand.web.services import Services


@pytest.fixture
def handler(settings: Settings) -> Iterator[GatewayHandler]:
    """Answers every path with it, and with the address of something new, or of another host."""

    async def echo(request: Request) -> Response:
        elsewhere = request.url.path == "/api/elsewhere"
        location = "https://elsewhere.test/" if elsewhere else "/api/jobs/1"
        return Response(request.url.path, headers={"location": location})

    app = Starlette(routes=[Route("/{path:path}", echo)])
    made = GatewayHandler(app, Services(settings))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("route", "parameters", "path", "seen", "location"),
    [
        ("GET /api/jobs", {}, "/api/jobs", "/api/jobs", "/api/jobs/1"),
        ("GET /api/jobs", {}, "/dev/api/jobs", "/api/jobs", "/dev/api/jobs/1"),
        ("GET /api/jobs/{id}", {"id": "7"}, "/v1/x/api/jobs/7", "/api/jobs/7", "/v1/x/api/jobs/1"),
        (
            "ANY /api/{proxy+}", {"proxy": "jobs/7"}, "/dev/api/jobs/7", "/api/jobs/7",
            "/dev/api/jobs/1",
        ),
        (
            "ANY /api/{a}/{proxy+}", {"a": "x", "proxy": "1/2"}, "/dev/api/x/1/2", "/api/x/1/2",
            "/dev/api/jobs/1",
        ),
        ("$default", None, "/api/jobs", "/api/jobs", "/api/jobs/1"),
        ("GET /api/jobs", None, "/dev/other/jobs", "/dev/other/jobs", "/api/jobs/1"),
        (
            "GET /api/elsewhere", None, "/dev/api/elsewhere", "/api/elsewhere",
            "https://elsewhere.test/",
        ),
    ],
)  # fmt: skip
def test_a_stage_or_a_domains_mapping_precedes_what_an_answer_names(
    handler: GatewayHandler,
    route: str,
    parameters: dict[str, str] | None,
    path: str,
    seen: str,
    location: str,
) -> None:
    """Routes know nothing of it, and a client that follows the address must find it."""
    answer = handler(event_of(route, parameters, path), None)

    assert (answer["body"], answer["headers"]["location"]) == (seen, location)


def event_of(route: str, parameters: dict[str, str] | None, path: str) -> dict[str, Any]:
    return {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example.test"},
        "pathParameters": parameters,
        "requestContext": {"http": {"method": "GET", "path": path, "sourceIp": "192.0.2.1"}},
        "isBase64Encoded": False,
    }


def test_a_handler_answers_after_the_one_it_replaces_is_closed(
    handler: GatewayHandler, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Secrets were rotated: the old connections are closed, and each answer sends telemetry."""
    said: list[str] = []

    class Closing(Services):
        async def aclose(self) -> None:
            said.append("closed")
            await super().aclose()

    monkeypatch.setattr(telemetry, "flush", lambda: said.append("flushed"))
    GatewayHandler(Starlette(), Closing(settings)).close()

    answer = handler(event_of("$default", None, "/api/jobs"), None)

    assert (answer["statusCode"], said) == (200, ["closed", "flushed"])
