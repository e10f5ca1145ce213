"""One project for this folder's tests, and the app with a worker that ticks when it is told to.

The database is shared: each test creates plans of its own and looks at those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand.worker import Registry
from minutehand_apps.plans.processors import register
from minutehand_apps.plans.services import Plans
from tests.support.harness import AppHarness
from tests.support.project import Project, project_of_a_room
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import ModelServer

EVE = "aaaaaaaa-0000-4000-8000-000000000003"
PROMPT = (
    "Build a booking app with 4 screens by 30 June 2099. Two developers at 500 EUR a day,"
    " budget 40,000 EUR."
)
#: Stages whose texts a language model writes, where there is one.
NARRATED = ["strategy", "risks", "questions", "executive_summary"]
ENDED = {"completed", "failed", "cancelled"}


@pytest.fixture(scope="module")
def project(renewed_project: Renewed) -> Project:
    """A database behind a Data API, with plans without an account allowed."""
    return project_of_a_room(renewed_project, "allow_anonymous")


class Harness(AppHarness):
    """The whole app, where prompts are handed in."""

    below = "/api/plans"

    def __init__(self, project: Project, settings: Settings) -> None:
        self.plans = Plans(settings)
        registry = Registry()
        register(registry, settings, app=self.plans)
        super().__init__(project, settings, registry, self.plans)

    async def create(
        self, prompt: str = PROMPT, speed: str = "fast_but_skip_details", **options: Any
    ) -> dict[str, Any]:
        """Create a plan as Ada, unless another user is named."""
        body = {"prompt": prompt, "speed_vs_detail": speed}
        answer = await self.call("POST", "", json=body, **options)
        assert answer.status_code == 202, answer.text
        plan: dict[str, Any] = answer.json()
        return plan

    async def look(self, plan: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The plan as its members see it."""
        answer = await self.call("GET", f"/{plan['plan_id']}", **options)
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    async def ended(
        self, plan: dict[str, Any], *, others_died: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Tick until the plan has ended, though other workers died or not."""
        return await self.tick_until(
            lambda: self.look(plan, **options),
            lambda state: state["status"] in ENDED,
            others_died=others_died,
        )

    async def report(self, plan: dict[str, Any], **options: Any) -> dict[str, Any]:
        """The plan's report as JSON."""
        headers = {"Accept": "application/json"}
        answer = await self.call("GET", f"/{plan['plan_id']}/report", headers=headers, **options)
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    async def events(self, plan: dict[str, Any], **headers: str) -> list[dict[str, Any]]:
        """What the plan's stream says until it ends; its ids are the events' numbers."""
        told = await self.stream(f"/{plan['plan_id']}/stream", **headers)
        assert [int(id_) for id_, _ in told] == [event["seq"] for _, event in told]
        return [event for _, event in told]

    async def get(self, plan: dict[str, Any], path: str, **options: Any) -> httpx.Response:
        """One of the plan's routes."""
        return await self.call("GET", f"/{plan['plan_id']}{path}", **options)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """A language model that writes a sentence for each narrated chapter."""
    async with ModelServer() as running:
        running.answers = {name: {"text": f"In words: {name}."} for name in NARRATED}
        yield running


@pytest.fixture
async def settings(project: Project) -> Settings:
    """The project's, with plans without an account allowed."""
    return project.settings.model_copy(update={"allow_anonymous": True})


@pytest.fixture
async def harness(project: Project, settings: Settings) -> AsyncIterator[Harness]:
    """The app offline."""
    async with Harness(project, settings).open() as harness:
        yield harness


@pytest.fixture
async def narrated(
    project: Project, settings: Settings, server: ModelServer
) -> AsyncIterator[Harness]:
    """The app with a language model."""
    async with Harness(project, server.known_to(settings)).open() as harness:
        yield harness
