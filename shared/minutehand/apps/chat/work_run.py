"""What every piece of work does beside its own: progress, questions, guidance, pages.

What it makes is offline_work.py's or online_work.py's.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final

from minutehand.apps.chat.models import ChatPayload, Item, Loaded
from minutehand.apps.chat.offline.artefact import Page, render
from minutehand.apps.chat.offline.texts import Passage
from minutehand.apps.chat.offline.work import Question, Task
from minutehand.apps.chat.search import SearchFailed
from minutehand.apps.chat.services import Chat
from minutehand.config import ConfigurationError
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry

#: Sources that one piece of research reads at most.
MOST_SOURCES: Final = 5
#: With more work than this in the queue nothing is slowed down to be watched.
CALM: Final = 5


class WorkRun:
    """One run of one work item."""

    def __init__(self, app: Chat, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded) -> None:
        assert loaded.message is not None
        assert loaded.item is not None
        self.app = app
        self.ctx = ctx
        self.loaded = loaded
        self.request = loaded.message.request
        self._job = job
        self._queued = 0
        #: What was asked and answered, as a model reads it.
        self.answered: str | None = None
        self.task = Task(
            item=loaded.item,
            documents=loaded.documents,
            history=loaded.history,
            found=loaded.found,
        )

    @property
    def item(self) -> Item:
        """What is to be done."""
        return self.task.item

    async def stage(self, percentage: float, stage: str, message: str) -> None:
        """Show a stage, and take in what people have said since the one before."""
        self.ctx.progress(percentage, stage, message)
        self.task.guidance, self._queued = await self.app.store.guidance(
            self._job.id, self._job.fence
        )

    async def pace(self) -> None:
        """Leave people the time to see, guide and cancel what would be done in an instant.

        Not while others wait for this worker.
        """
        if self.app.own.pace_seconds > 0 and self._queued <= CALM:
            await asyncio.sleep(self.app.own.pace_seconds)

    async def ask(self, question: Question | None) -> None:
        """Ask, unless nothing is open or nothing may be asked, and take in the answer."""
        if question is None or not self.request.ask:
            return
        seconds = self.request.ask_seconds
        self.ctx.progress(10, "ANALYZING", question.text)
        await self.app.store.note(
            self._job.id,
            self._job.fence,
            type="question",
            content=question.text,
            name="question",
            options=question.options,
            default=question.default,
            expires_seconds=seconds,
        )
        answer = await self.ctx.ask(
            question.text,
            question.options,
            timeout=seconds,
            default=question.default,
            name="question",
        )
        self.task.answer = answer or question.default
        self.answered = f"{question.text} {self.task.answer}"

    async def passages(self) -> list[Passage]:
        """The sources of a topic: what was given and said, and what a search finds.

        Raises:
            Pause: The search does not answer.
        """
        from minutehand.apps.chat.offline import work
        from minutehand.apps.chat.writing import Pause

        own = work.sources_at_hand(self.task)
        if self.app.own.search_url is None:
            return own
        topic = " ".join([self.task.topic, *self.task.guidance])

        async def find() -> list[dict[str, Any]]:
            found = await self.app.search.find(topic, limit=MOST_SOURCES)
            return [
                {"source": each.source, "section": each.section, "text": each.text, "url": each.url,
                 "licence": each.licence}
                for each in found
            ]  # fmt: skip

        try:
            found = await self.ctx.step("search", find)
        except SearchFailed as error:
            self.ctx.log("warning", str(error))
            if error.later:
                raise Pause(Retry(str(error), after=error.retry_after)) from error
            raise Pause(Fail(str(error))) from error
        return [*(Passage(**each) for each in found), *own]

    async def store_page(self, page: Page) -> dict[str, Any]:
        """Store a page once per job, under a key of its own; what its message keeps of it.

        Raises:
            Pause: This deployment has no bucket for pages.
        """
        from minutehand.apps.chat.files import key_of
        from minutehand.apps.chat.writing import Pause

        key = key_of(self.loaded.workspace_id or "", self._job.id)

        async def put() -> dict[str, Any]:
            size = await self.app.files.put(key, render(page))
            return {
                "token": secrets.token_hex(32),
                "key": key,
                "title": page.title[:200],
                "type": page.type,
                "size_bytes": size,
            }

        try:
            stored: dict[str, Any] = await self.ctx.step("page", put)
        except ConfigurationError as error:
            raise Pause(Fail(f"The page cannot be stored: {error}")) from error
        return stored


def shown_artefact(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored page as its message shows it: its address opens it and nothing else."""
    return {
        "url": f"/api/chat/artefacts/{stored['token']}",
        **{name: stored[name] for name in ("title", "type", "size_bytes")},
    }
