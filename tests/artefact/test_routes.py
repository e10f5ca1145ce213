"""Every route the code serves is reached through the API by the function that serves it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI

from minutehand.config import Settings
from supabase_local.lambda_runtime.gateway import Route
from supabase_local.lambda_runtime.template import _routes
from tests.artefact.stack import Stack

SETTINGS = Settings(
    supabase_url="http://127.0.0.1:1",
    supabase_publishable_key="sb_publishable_test",
    apps=("minutehand_apps.*",),
)


def served(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Method and an example path of each published route of an app."""
    for template, operations in app.openapi()["paths"].items():
        path = re.sub(r"\{[^}]+\}", "00000000-0000-4000-8000-000000000000", template)
        for method in operations:
            yield method.upper(), path


def leads_to(stack: Stack, method: str, path: str) -> str | None:
    names = {
        logical: function["FunctionName"]
        for logical, function in stack.of_type("AWS::Lambda::Function").items()
    }
    routes = sorted(_routes(stack.resources, names), key=Route.rank)
    for route in routes:
        if route.match(method, path) is not None:
            return route.function.rsplit("-", 1)[-1]
    return None


def apps() -> dict[str, FastAPI]:
    from minutehand.functions.health.app import build_app as health
    from minutehand.functions.jobs.app import build_app as jobs
    from minutehand.functions.status.app import build_app as status

    return {"jobs": jobs(SETTINGS), "status": status(SETTINGS), "health": health(SETTINGS)}


@pytest.mark.parametrize("name", ["jobs", "status", "health"])
def test_every_route_of_a_function_leads_to_it(stacks: dict[str, Stack], name: str) -> None:
    """A route that the gateway sends elsewhere is a 404 that no unit test sees."""
    routes = list(served(apps()[name]))

    astray = {
        f"{method} {path}": leads_to(stacks["prod"], method, path)
        for method, path in routes
        if leads_to(stacks["prod"], method, path) != name
    }

    assert routes
    assert astray == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/jobs/worker"),
        ("GET", "/api/jobs/worker"),
        ("POST", "/api/jobs/process"),
    ],
)
def test_ticks_by_http_lead_to_the_worker(stacks: dict[str, Stack], method: str, path: str) -> None:
    """`/api/jobs/worker` looks like a job's id to the reads' route."""
    assert leads_to(stacks["prod"], method, path) == "worker"


@pytest.mark.parametrize(
    ("method", "path", "function"),
    [
        ("GET", "/api/openapi.json", "status"),
        ("GET", "/api/v1/health", "health"),
        ("POST", "/api/accounts/import", "jobs"),
        ("GET", "/api/workspaces/1/settings", "jobs"),
        ("GET", "/nowhere", None),
    ],
)
def test_unpublished_routes_lead_somewhere_sensible(
    stacks: dict[str, Stack], method: str, path: str, function: str | None
) -> None:
    """Apps' routes need no line in the template."""
    assert leads_to(stacks["prod"], method, path) == function
