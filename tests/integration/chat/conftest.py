"""One project for this room's tests, a language model's server, and the app in one hand.

The database is shared: each test begins conversations of its own and looks at those.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import pytest

from minutehand.apps.chat.processors import register
from minutehand.apps.chat.services import Chat
from minutehand.config import Settings
from minutehand.local.postgres import Postgres
from minutehand.worker import Registry
from tests.support.fake_aws import fake_aws
from tests.support.harness import AppHarness
from tests.support.project import ACME, Project, project_of_a_room
from tests.unit.ai.model_server import ModelServer

BUCKET = "chat-pages"
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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """S3, on this machine."""
    with fake_aws() as endpoint:
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        ).create_bucket(Bucket=BUCKET)
        yield endpoint


@pytest.fixture
def rules(project: Project, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The project's settings with a bucket and no language model; guests are let in."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    return project.settings.model_copy(
        update={
            "uploads_bucket": BUCKET,
            "aws_endpoint_url": s3_server,
            "allow_anonymous": True,
        }
    ).with_environ(ENABLE_ASYNC_WORK="true")


@pytest.fixture(scope="module")
def project(template: Postgres) -> Iterator[Project]:
    """A database behind a Data API, with anonymous guest sessions allowed."""
    with project_of_a_room(template, "allow_anonymous") as made:
        # tests say more in a minute than people do
        made.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 100000}')")
        yield made


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The language model."""
    async with ModelServer() as running:
        running.answers = dict(ANSWERS)
        yield running


class Harness(AppHarness):
    """The whole app, where people talk."""

    below = "/api/chat/conversations"

    def __init__(self, project: Project, settings: Settings) -> None:
        self.chat = Chat(settings)
        registry = Registry()
        register(registry, settings, app=self.chat)
        super().__init__(project, settings, registry, self.chat)

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
        """Tick until all has ended or asks something, though other workers died or not."""
        return await self.tick_until(
            lambda: self.look(conversation_id),
            lambda state: not state["replying"] and state["live"] == state["waiting"],
            others_died=others_died,
        )

    async def asking(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        """A conversation with a work item that asks its question."""
        conversation_id = await self.begin()
        fields = {"mode": "work", "ask": True, "documents": NOTES, **fields}
        await self.say(conversation_id, "Compare these notes.", **fields)
        state = await self.settled(conversation_id)
        [item] = state["work"]
        return conversation_id, item


@pytest.fixture
async def settings(rules: Settings, server: ModelServer) -> Settings:
    """The project's, with the server as its language model."""
    return server.known_to(rules)


@pytest.fixture
async def harness(project: Project, settings: Settings) -> AsyncIterator[Harness]:
    """The app on this room's project, with a language model."""
    async with Harness(project, settings).open() as harness:
        yield harness
