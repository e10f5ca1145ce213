"""One project for this room's tests, a language model's server, and the app in one hand.

The database is shared: each test starts plans of its own and looks at those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from minutehand.apps.plans.processors import register
from minutehand.apps.plans.services import Plans
from minutehand.config import Settings
from minutehand.local.postgres import Postgres
from minutehand.worker import Registry
from tests.support.desk import AppDesk
from tests.support.project import ACME, Project, project_of_a_room
from tests.unit.ai.model_server import ModelServer

EVE = "aaaaaaaa-0000-4000-8000-000000000003"
GOAL = "Move the harbour museum into the old customs house before the spring season."
#: What the server answers, so that a plan has three phases.
ANSWERS: dict[str, Any] = {
    "understand": {
        "restated_goal": "The museum moves.",
        "assumptions": ["The house is dry."],
        "questions": [{"question": "Who pays?", "options": ["The city", "The museum"]}],
    },
    "outline": {
        "phases": [
            {"title": "Survey", "objective": "Know the house."},
            {"title": "Pack", "objective": "Have all packed."},
            {"title": "Open", "objective": "Be open."},
        ]
    },
    **{
        f"phase_{number}": {
            "steps": [{"title": f"Step of {number}", "detail": "Do it."}],
            "deliverable": "It is done.",
            "days": number,
        }
        for number in (1, 2, 3)
    },
    "risks": {"risks": [{"risk": "Rain.", "mitigation": "Tarpaulins."}]},
    "review": {"summary": "It can be done.", "gaps": [], "next_step": "Call the city."},
}


@pytest.fixture(scope="module")
def project(template: Postgres) -> Iterator[Project]:
    """A database behind a Data API, with anonymous visits allowed."""
    with project_of_a_room(template, "allow_anonymous") as made:
        yield made


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The language model."""
    async with ModelServer() as running:
        running.answers = dict(ANSWERS)
        yield running


class Desk(AppDesk):
    """The whole app, where goals are handed in."""

    below = "/api/plans"

    def __init__(self, project: Project, settings: Settings) -> None:
        self.plans = Plans(settings)
        registry = Registry()
        register(registry, settings, app=self.plans)
        super().__init__(project, settings, registry, self.plans)

    async def start(self, **fields: Any) -> dict[str, Any]:
        """Start a plan of Acme's that asks nothing, unless told otherwise."""
        body = {"workspace_id": ACME, "goal": GOAL, "ask": False, **fields}
        answer = await self.call("POST", "", json=body)
        assert answer.status_code == 201, answer.text
        plan: dict[str, Any] = answer.json()
        return plan

    async def look(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The plan as its members see it."""
        answer = await self.call("GET", f"/{plan['id']}")
        assert answer.status_code == 200, answer.text
        state: dict[str, Any] = answer.json()
        return state

    async def report(self, plan: dict[str, Any]) -> dict[str, Any]:
        """The plan's report."""
        answer = await self.call("GET", f"/{plan['id']}/report")
        assert answer.status_code == 200, answer.text
        report: dict[str, Any] = answer.json()
        return report

    async def ended(self, plan: dict[str, Any], *, others_died: bool = False) -> dict[str, Any]:
        """Tick until the plan has ended or asks something, though other workers died or not."""
        return await self.tick_until(
            lambda: self.look(plan),
            lambda state: state["status"] not in {"pending", "running"},
            others_died=others_died,
        )


@pytest.fixture
async def settings(project: Project, server: ModelServer) -> Settings:
    """The project's, with the server as its language model."""
    return server.known_to(project.settings.model_copy(update={"allow_anonymous": True}))


@pytest.fixture
async def desk(project: Project, settings: Settings) -> AsyncIterator[Desk]:
    """The app on this room's project, with a language model."""
    async with Desk(project, settings).open() as desk:
        yield desk
