"""Fixtures: a project with three provider servers, and the beacon app's API and worker."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from minutehand_apps.beacon.local import HOMES
from minutehand_apps.beacon.local.provider_server import ProviderServer, Task
from minutehand_apps.beacon.outbox import Outbox
from minutehand_apps.beacon.processors import register
from minutehand_apps.beacon.services import Beacon
from tests.support.engine import ACME, Json
from tests.support.harness import AppHarness, serving
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed

ENDED = ("completed", "failed", "cancelled")
_names = itertools.count(1)


@pytest.fixture(scope="module")
def project(process_database: Renewed, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A database with seed data and a Data API."""
    made = project_of_a_file(process_database)
    keys: Path = tmp_path_factory.mktemp("keys") / "sealing.json"
    made.settings = made.settings.model_copy(update={"sealing_key_file": str(keys)})
    return made


@dataclass(frozen=True)
class Faults:
    """Faults of a provider in one region. By default the provider has no fault."""

    #: Each call returns status 503.
    down: bool = False
    #: A task does not end.
    hang: bool = False
    #: Changed fields of a result.
    result: Json = field(default_factory=dict)
    #: Function that changes the answers of a result.
    answers: Callable[[list[Any]], list[Any]] = list


class FaultyProvider(ProviderServer):
    """A provider with faults by region."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.faults: dict[str, Faults] = {}

    def fault(self, region: str) -> Faults:
        return self.faults.get(region) or self.faults.get("*") or Faults()

    async def submit(self, request: Request) -> Response:
        fault = self.fault((await request.json())["region"])
        if fault.down:
            return Response(status_code=503)
        response = await super().submit(request)
        if fault.hang:
            self.tasks[request.headers["idempotency-key"]].status = "running"
        return response

    def result(self, task: Task) -> Json:
        fault = self.fault(task.request["region"])
        result = super().result(task)
        answers = fault.answers(result["data"]["responses"])
        return {**result, "data": {"responses": answers}, **fault.result}


class Providers:
    """The three providers of the local stack, each an HTTP server on its own port."""

    def __init__(self) -> None:
        self.by_name = {name: FaultyProvider(name) for name in HOMES}
        self.variable = ""

    def faults(self, name: str | None, region: str = "*", **faults: Any) -> None:
        """Set the faults of one provider in a region, or in all regions."""
        for each in self.by_name if name is None else [name]:
            self.by_name[each].faults[region] = Faults(**faults)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Providers]:
        """Serve the providers until the block ends."""
        async with AsyncExitStack() as stack:
            listed = []
            for name, provider in self.by_name.items():
                url = await stack.enter_async_context(serving(provider.app))
                listed.append({"name": name, "url": url, "regions": list(HOMES[name])})
            self.variable = json.dumps(listed)
            yield self


class Station(AppHarness):
    """The beacon app: its API, and a worker that runs when the test runs it."""

    below = "/api/v1"

    def __init__(self, project: Project, providers: Providers) -> None:
        settings = project.settings.with_environ(BEACON_PROVIDERS=providers.variable)
        self.beacon = Beacon(settings)
        super().__init__(project, settings, register, self.beacon, grace_seconds=2)
        self.outbox = Outbox(self.beacon)

    def spec(self, **fields: Any) -> Json:
        """Return a job specification with a unique id.

        The given `constraints` are merged into it.
        """
        constraints = {"regions": ["us-east", "eu-west"], "min_regions": 1}
        return {
            "jobspec_id": f"spec-{next(_names)}",
            "version": "1",
            "benchmark": {"name": "trivia"},
            "constraints": {**constraints, **fields.pop("constraints", {})},
            "questions": [
                "What is the capital of France?",
                {"id": "m1", "question": "What is two and two?", "category": "mathematics"},
            ],
            **fields,
        }

    async def submit(self, **fields: Any) -> Any:
        """Submit a job specification for the workspace Acme."""
        return await self.ok("POST", "/jobs", json={"workspace_id": ACME, **self.spec(**fields)})

    async def look(self, job: Json) -> Any:
        """Read a beacon job as the workspace's members see it."""
        return await self.ok("GET", f"/jobs/{job['id']}")

    async def ended(self, job: Json) -> Any:
        """Run the worker, without waiting for backoffs, until the beacon job has ended."""
        return await self.tick_until(lambda: self.look(job), lambda state: state["status"] in ENDED)


@pytest.fixture
async def providers() -> AsyncIterator[Providers]:
    """The three running provider servers."""
    async with Providers().open() as running:
        yield running


@pytest.fixture
async def station(project: Project, providers: Providers) -> AsyncIterator[Station]:
    """The running beacon app."""
    async with Station(project, providers).open() as station:
        yield station
