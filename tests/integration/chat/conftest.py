"""One project for this room's tests, a language model's server, and the app in one hand.

The database is shared: each test begins conversations of its own and looks at those.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from functions.jobs.app import build_app
from infra.local.bench.scratch import scratch_settings
from infra.local.ports import reserve_port
from infra.local.postgres import Postgres
from shared.apps.chat.processors import register
from shared.apps.chat.services import Chat
from shared.config import Settings
from shared.worker import Registry, TickOptions, Worker
from shared.worker.testing import drain
from tests.support.databases import fresh_database
from tests.support.project import ACME, ADA, Gateway, Project
from tests.unit.ai.model_server import KEY, ModelServer

BOB = "aaaaaaaa-0000-4000-8000-000000000002"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
NOTES = [
    {"title": "Ada's notes", "text": "The lift carries two tonnes. The roof leaks."},
    {"title": "Bob's notes", "text": "The lift is out of order. The city pays."},
]
#: What the server answers: a comparison with one question, two parts, and plain text.
ANSWERS: dict[str, Any] = {
    "decide": {
        "needs_work": True,
        "items": [{"kind": "compare", "title": "Two notes", "instruction": "Compare them."}],
    },
    "scope": {
        "parts": ["Lift", "Money"],
        "questions": [{"question": "For whom?", "options": ["The city", "The museum"]}],
    },
    "part_1": {"gist": "Two tonnes."},
    "part_2": {"gist": "Out of order."},
}


@pytest.fixture(scope="module")
def project(template: Postgres) -> Iterator[Project]:
    """A database behind a Data API, with anonymous visits allowed."""
    with fresh_database(template) as database:
        database.seed()
        gateway = Gateway(database.url, reserve_port())
        gateway.start()
        try:
            made = Project(scratch_settings(gateway.url), database, gateway)
            made.run_sql("update queue.settings set value = 'true' where name = 'allow_anonymous'")
            # tests say more in a minute than people do
            made.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 100000}')")
            yield made
        finally:
            gateway.stop()


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The language model."""
    async with ModelServer() as running:
        running.answers = dict(ANSWERS)
        yield running


class Desk:
    """The whole app: its API per user, and ticks on demand."""

    def __init__(self, project: Project, settings: Settings) -> None:
        self.project = project
        self.chat = Chat(settings)
        registry = Registry()
        register(registry, settings, app=self.chat)
        self.worker = Worker(
            settings,
            registry=registry,
            options=TickOptions(concurrency=8, linger_seconds=0, grace_seconds=5),
        )
        self._app = build_app(settings)
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._app), base_url="http://api.test"
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Desk]:
        """Be open until the test is over."""
        async with self._app.router.lifespan_context(self._app):
            await self.worker.register()
            yield self
        await self._http.aclose()
        await self.worker.aclose()
        await self.chat.aclose()

    async def call(
        self, method: str, path: str, *, user: str | None = ADA, **options: Any
    ) -> httpx.Response:
        """Call the API as a user, Ada unless another is named; as nobody for None."""
        headers = options.pop("headers", {})
        if user is not None:
            headers["Authorization"] = f"Bearer {self.project.token(user)}"
        path = f"/api/chat/conversations{path}"
        return await self._http.request(method, path, headers=headers, **options)

    async def begin(self, **options: Any) -> str:
        """Begin a conversation of Acme's; answers its id."""
        answer = await self.call("POST", "", json={"workspace_id": ACME}, **options)
        assert answer.status_code == 201, answer.text
        conversation_id: str = answer.json()["id"]
        return conversation_id

    async def say(self, conversation_id: str, text: str, **fields: Any) -> dict[str, Any]:
        """Say something that becomes no work, unless told otherwise; answers what was taken."""
        body = {"text": text, "mode": "reply", "ask": False, **fields}
        answer = await self.call("POST", f"/{conversation_id}/messages", json=body)
        assert answer.status_code == 201, answer.text
        sent: dict[str, Any] = answer.json()
        return sent

    async def look(self, conversation_id: str) -> dict[str, Any]:
        """The conversation as its members see it."""
        answer = await self.call("GET", f"/{conversation_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def messages(self, conversation_id: str) -> list[dict[str, Any]]:
        """What was said."""
        answer = await self.call("GET", f"/{conversation_id}/messages")
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["messages"]
        assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
        return found

    async def settled(self, conversation_id: str, *, others_died: bool = False) -> dict[str, Any]:
        """Tick, backoffs over at once, until all has ended or asks something.

        Args:
            others_died: Let leases lapse that nobody of this test holds any more, again and
                again: a dead worker's last report may still have been on its way.
        """
        give_up = time.monotonic() + 120
        while time.monotonic() < give_up:
            if others_died:
                self.lapse()
            await drain(self.worker)
            state = await self.look(conversation_id)
            if not state["replying"] and state["live"] == state["waiting"]:
                return state
            self.make_due()
            await asyncio.sleep(0.02)  # lapsed leases are looked for now and then
        raise AssertionError(f"the conversation does not settle: {state}")

    async def asking(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        """A conversation with a work item that asks its question."""
        conversation_id = await self.begin()
        fields = {"mode": "work", "ask": True, "documents": NOTES, **fields}
        await self.say(conversation_id, "Compare these notes.", **fields)
        state = await self.settled(conversation_id)
        [item] = state["work"]
        return conversation_id, item

    def lapse(self) -> None:
        """Let every lease be over."""
        self.project.run_sql(
            "update queue.leases set expires_at = queue.clock() - interval '1 second'"
        )

    def make_due(self) -> None:
        """Let every backoff be over."""
        self.project.run_sql(
            "update queue.deferred set run_at = queue.clock() - interval '1 second'"
        )


@pytest.fixture
async def settings(project: Project, server: ModelServer) -> Settings:
    """The project's, with the server as its language model."""
    return project.settings.model_copy(
        update={
            "language_model_url": server.url,
            "language_model_key": KEY,
            "language_model": "test-model",
            "language_model_prices": (1.0, 2.0),
            "allow_anonymous": True,
        }
    )


@pytest.fixture
async def desk(project: Project, settings: Settings) -> AsyncIterator[Desk]:
    """The app on this room's project, with a language model."""
    async with Desk(project, settings).open() as desk:
        yield desk
