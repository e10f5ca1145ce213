"""Fixtures of the plans app: a project, a language model's server, and a test harness."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand_apps.plans.processors import register
from minutehand_apps.plans.services import Plans
from tests.support.harness import AppHarness
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import ModelServer

POINTS = {"points": ["A line <b>"]}
#: Responses of the model's server, by stage of the plan.
ANSWERS: dict[str, Any] = {
    "understand": {"title": "Bakery", "goal": "Sell bread.", "facts": ["200 guests"], "more": 1},
    "work_breakdown": {
        "tasks": [
            {"id": "A", "title": "Oven", "days": 2},
            {"id": "B", "title": "Sign", "days": 3},
            {"id": "C", "title": "Open", "days": 1},
        ]
    },
    "dependencies": {
        "order": [{"task": "c", "after": ["A", " sign"]}, {"task": "Oven", "after": []}]
    },
    "budget": {"currency": "EUR", "costs": [{"title": "Oven", "amount": 1000.5}]},
    "risks": {"risks": [{"risk": "Rain", "answer": "A tent"}]},
    "milestones": {"milestones": [{"title": "Opening", "when": "Day 4"}]},
    "strategy": {"text": "Bake."},
    "executive_summary": {"text": "In short."},
}
OTHERS = ("assumptions", "constraints", "team", "quality", "communication", "what_if", "questions")


@pytest.fixture(scope="module")
def project(process_database: Renewed) -> Project:
    """A database with a Data API that allows guests."""
    return project_of_a_file(process_database, guests=True)


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The running server of the language model."""
    async with ModelServer() as running:
        running.answers = {**ANSWERS, **dict.fromkeys(OTHERS, POINTS)}
        yield running


class Harness(AppHarness):
    """The plans app, with functions to create and read plans."""

    below = "/api/plans"

    def __init__(self, project: Project, settings: Settings) -> None:
        self.plans = Plans(settings)
        super().__init__(project, settings, register, self.plans)

    async def create(
        self, speed: str = "fast_but_skip_details", *, user: str | None = None, **options: Any
    ) -> str:
        """Create a plan as a user, or as a guest if no user is given. Return its id."""
        body = {"prompt": "Create a simple plan for a local bakery", "speed_vs_detail": speed}
        return (await self.ok("POST", "", user=user, json=body, **options))["plan_id"]

    async def look(self, plan_id: str, user: str | None = None) -> dict[str, Any]:
        """Return the plan as the API shows it."""
        return await self.ok("GET", f"/{plan_id}", user=user)

    async def ended(self, plan_id: str, user: str | None = None) -> dict[str, Any]:
        """Run the worker until the plan has ended, and return the plan."""
        return await self.tick_until(
            lambda: self.look(plan_id, user),
            lambda seen: seen["status"] in {"completed", "failed", "cancelled"},
        )

    async def report(self, plan_id: str, accept: str = "text/markdown", **options: Any) -> str:
        """Return the plan's report."""
        answer: httpx.Response = await self.call(
            "GET", f"/{plan_id}/report", user=None, headers={"Accept": accept}, **options
        )
        assert answer.status_code == 200, answer.text
        return answer.text


@pytest.fixture
async def harness(project: Project) -> AsyncIterator[Harness]:
    """The running plans app without a language model."""
    async with Harness(project, project.settings).open() as made:
        yield made


@pytest.fixture
async def with_model(project: Project, server: ModelServer) -> AsyncIterator[Harness]:
    """The running plans app with a language model."""
    async with Harness(project, server.known_to(project.settings)).open() as made:
        yield made
