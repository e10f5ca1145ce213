"""One project for this room's tests, a language model's server, and the app in one hand.

The database is shared: each test begins sessions of its own and looks at those.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import boto3
import httpx
import pytest

from minutehand.config import Settings
from minutehand.worker import Registry
from minutehand_apps.chat.processors import register
from minutehand_apps.chat.services import Chat
from tests.support.fake_aws import fake_aws
from tests.support.harness import AppHarness
from tests.support.project import ACME, ADA, Project, project_of_a_room
from tests.support.renewed import Renewed
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


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """S3, on this machine: what moto holds is the process's, and other files may empty it."""
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
        update={"uploads_bucket": BUCKET, "aws_endpoint_url": s3_server, "allow_anonymous": True}
    ).with_environ(ENABLE_ASYNC_WORK="true")


@pytest.fixture(scope="module")
def project(renewed_project: Renewed) -> Project:
    """A database behind a Data API, with anonymous guest sessions allowed."""
    made = project_of_a_room(renewed_project, "allow_anonymous")
    # tests say more in a minute than people do
    made.run_sql("select public.set_settings('{\"chat_messages_per_minute\": 100000}')")
    return made


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """The language model."""
    async with ModelServer() as running:
        running.answers = dict(ANSWERS)
        yield running


class Harness(AppHarness):
    """The whole app, where people talk; a session is named by its id."""

    below = "/api"

    def __init__(self, project: Project, settings: Settings) -> None:
        self.chat = Chat(settings)
        registry = Registry()
        register(registry, settings, app=self.chat)
        super().__init__(project, settings, registry, self.chat)

    async def ask(self, session: str | None, text: str, **options: Any) -> httpx.Response:
        """POST /api/chat; anonymous unless a user is named."""
        headers = {"x-session-id": session} if session else {}
        user = options.pop("user", None)
        body = {"messages": [{"role": "user", "content": text}], **options.pop("body", {})}
        headers |= options.pop("headers", {})
        return await self.call("POST", "/chat", user=user, json=body, headers=headers)

    def begin(self) -> str:
        """The id of a session to come, of Acme's by the first message."""
        return f"guest_{secrets.token_hex(32)}"

    async def say(self, session: str, text: str, **fields: Any) -> str:
        """Say as Ada what becomes no work, unless told otherwise; answers the message's id."""
        body = {"mode": "reply", "ask": False, "wait_seconds": 0, "workspace_id": ACME, **fields}
        answer = await self.ask(session, text, user=body.pop("user", ADA), body=body)
        assert answer.status_code in {200, 202}, answer.text
        message_id: str = answer.json()["messageId"]
        return message_id

    def job_of(self, message_id: str) -> str:
        """The job that answers a message."""
        [row] = self.project.rows(
            "select job_id::text from public.chat_messages where id = %s",
            message_id.removeprefix("msg_"),
        )
        job_id: str = row["job_id"]
        return job_id

    def look(self, session: str) -> dict[str, Any]:
        """The session's row of async_session_state, with its work as async_work_items has it."""
        [state] = self.project.rows(
            "select * from public.async_session_state where session_id = %s", session
        )
        work = self.project.rows(
            "select *, job_id::text from public.async_work_items where session_id = %s order by 1",
            session,
        )
        return {**state, "work": work}

    def messages(self, session: str) -> list[dict[str, Any]]:
        """What was said, as members read it."""
        found = self.project.rows(
            "select m.*, m.job_id::text from public.chat_messages as m join"
            " public.async_session_state as s using (conversation_id)"
            " where s.session_id = %s order by m.seq",
            session,
        )
        assert [each["seq"] for each in found] == list(range(1, len(found) + 1))
        return found

    async def settled(self, session: str, *, others_died: bool = False) -> dict[str, Any]:
        """Tick until all has ended or asks something, though other workers died or not."""

        async def look() -> dict[str, Any]:
            return self.look(session)

        return await self.tick_until(
            look,
            lambda state: not state["replying"] and state["live"] == state["waiting"],
            others_died=others_died,
        )

    async def asking(self, **fields: Any) -> tuple[str, dict[str, Any]]:
        """A session with a work item that asks its question."""
        session = self.begin()
        fields = {"mode": "work", "ask": True, "documents": NOTES, **fields}
        await self.say(session, "Compare these notes.", **fields)
        state = await self.settled(session)
        [item] = state["work"]
        return session, item

    async def status(self, session: str, user: str | None = None) -> dict[str, Any]:
        """GET /api/async-status."""
        answer = await self.call("GET", f"/async-status?sessionId={session}", user=user)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def notes(self, session: str, user: str | None = None) -> dict[str, Any]:
        """GET /api/async-messages."""
        answer = await self.call("GET", f"/async-messages?sessionId={session}", user=user)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def respond(self, user: str | None = None, **body: Any) -> httpx.Response:
        """POST /api/async-messages."""
        return await self.call("POST", "/async-messages", user=user, json=body)

    async def answer(self, session: str, item: dict[str, Any], text: str) -> int:
        """Answer an item's question as Ada; the status."""
        asked = (await self.notes(session, ADA))["messages"]
        [question] = [
            each["id"]
            for each in asked
            if (each["workId"], each["type"]) == (item["id"], "question")
        ]
        answered = await self.respond(ADA, messageId=question, sessionId=session, content=text)
        return answered.status_code

    async def cancel(self, user: str | None = None, **body: Any) -> httpx.Response:
        """POST /api/async-cancel."""
        return await self.call("POST", "/async-cancel", user=user, json=body)

    async def retry(self, job_id: str) -> int:
        """Run a job again as a member does on its page; the status."""
        return (await self.call("POST", f"/jobs/{job_id}/retry")).status_code

    async def quiet(self, session: str) -> dict[str, Any]:
        """Tick until nothing runs: all has ended or asks."""
        return await self.tick_until(
            lambda: self.status(session),
            lambda seen: all(each["status"] == "waiting_for_user" for each in seen["activeWork"]),
        )

    def figures(self) -> dict[str, int]:
        """The queue's figures as an operator counts them."""
        [row] = self.project.rows(
            "select count(*) filter (where status = 'accepted') as queued,"
            " count(*) filter (where status = 'in_progress') as executing"
            " from public.async_work_items"
        )
        return {name: int(value) for name, value in row.items()}


async def asked_and_ticked(
    harness: Harness, session: str | None, text: str, **options: Any
) -> httpx.Response:
    """Say something that is answered in the request, while a worker ticks."""
    asked = asyncio.ensure_future(harness.ask(session, text, **options))
    while not asked.done():
        await harness.worker.tick()
        await asyncio.sleep(0.01)
    return asked.result()


@pytest.fixture
async def settings(rules: Settings, server: ModelServer) -> Settings:
    """The project's, with the server as its language model."""
    return server.known_to(rules)


@pytest.fixture
async def harness(project: Project, settings: Settings) -> AsyncIterator[Harness]:
    """The app on this room's project, with a language model."""
    async with Harness(project, settings).open() as harness:
        yield harness
