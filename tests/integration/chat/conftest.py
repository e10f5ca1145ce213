"""Fixtures of the chat app: a project, a language model's server, and a test harness."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from minutehand.config import Settings
from minutehand_apps.chat.processors import register
from minutehand_apps.chat.services import Chat
from tests.support.harness import AppHarness
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed
from tests.unit.ai.model_server import ModelServer

#: Responses of the model's server. The work is research with a question and a web page.
ANSWERS: dict[str, Any] = {
    "decide": {
        "tier": "async",
        "type": "research",
        "title": "Tides",
        "page": True,
        "question": "Which coast?",
        "options": ["North", "South"],
        "surplus": "is dropped",
    },
    "research": {"points": ["There are two tides a day."]},
    "page": {
        "title": "Tides",
        "summary": "Two a day. <script>",
        "sections": [{"title": "Heights", "figures": [{"label": "North", "value": 4.5}]}],
        "colours": ["#112233"],
    },
    "write": {"text": "Two a day."},
}
#: Messages for which the offline script chooses a web page, and a text.
PAGE = "Research the latest AI trends and build me an interactive dashboard to visualize them"
TEXT = "Research AI safety and build a comprehensive report"


@pytest.fixture(scope="module")
def project(process_database: Renewed) -> Project:
    """A database with a Data API that allows guests."""
    made = project_of_a_file(process_database, guests=True)
    made.sql(
        "update queue.settings set value = 'null' where name = 'chat_guest_messages_per_minute'"
    )
    return made


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The running server of the language model."""
    async with ModelServer() as running:
        running.answers = dict(ANSWERS)
        yield running


class Harness(AppHarness):
    """The chat app. Its chat sessions are identified by an id."""

    below = "/api"

    def __init__(self, project: Project, settings: Settings) -> None:
        self.chat = Chat(settings)
        super().__init__(project, settings, register, self.chat)

    def begin(self) -> str:
        """Return the id of a new chat session."""
        return f"chat_{secrets.token_hex(32)}"

    async def say(
        self, session: str, text: str, *, user: str | None = None, **options: Any
    ) -> httpx.Response:
        """Send a chat message while a worker runs."""
        headers = {"x-session-id": session, **options.pop("headers", {})}
        body = {"messages": [{"role": "user", "content": text}], **options}
        asked = asyncio.ensure_future(
            self.call("POST", "/chat", user=user, json=body, headers=headers)
        )
        while not asked.done():
            await self.worker.tick()
            self.project.make_due()
            await asyncio.sleep(0.01)
        return asked.result()

    async def status(self, session: str) -> Any:
        """Return the status of a chat session."""
        return await self.ok("GET", f"/async-status?sessionId={session}", user=None)

    async def talk(self, session: str, user: str | None = None) -> list[dict[str, Any]]:
        """Return the messages of a chat session."""
        response = await self.ok("GET", f"/chat?sessionId={session}", user=user)
        messages: list[dict[str, Any]] = response["messages"]
        return messages

    async def respond(self, session: str, text: str) -> httpx.Response:
        """Answer the chat session's latest question."""
        found = await self.ok("GET", f"/async-messages?sessionId={session}", user=None)
        [question] = [each for each in found["messages"] if each["type"] == "question"]
        body = {"messageId": question["id"], "sessionId": session, "content": text}
        return await self.call("POST", "/async-messages", user=None, json=body)

    async def ended(self, session: str) -> Any:
        """Run the worker until all work of the chat session has ended.

        Return the first work item.
        """
        found = await self.tick_until(
            lambda: self.status(session), lambda seen: not seen["activeWork"]
        )
        return found["endedWork"][0]

    async def asking(self, session: str) -> Any:
        """Run the worker until the chat session has an open question, and return the question."""
        found = await self.tick_until(
            lambda: self.status(session), lambda seen: seen["pendingQuestions"]
        )
        return found["pendingQuestions"][0]


@pytest.fixture
def settings(project: Project) -> Settings:
    """Settings that allow guests and background work."""
    return project.settings.with_environ(ENABLE_ASYNC_WORK="true")


@pytest.fixture
async def harness(project: Project, settings: Settings) -> AsyncIterator[Harness]:
    """The running chat app without a language model."""
    async with Harness(project, settings).open() as made:
        yield made


@pytest.fixture
async def with_model(
    project: Project, settings: Settings, server: ModelServer
) -> AsyncIterator[Harness]:
    """The running chat app with a language model."""
    async with Harness(project, server.known_to(settings)).open() as made:
        yield made
