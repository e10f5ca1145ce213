"""What every piece of work does beside its own: progress, questions, guidance, pages.

What it makes is offline_work.py's or online_work.py's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry
from minutehand_apps.chat.models import ChatPayload, Finding, Item, Loaded, Text
from minutehand_apps.chat.page import COLOUR_OPTIONS, Page, look_of, render
from minutehand_apps.chat.search import SearchFailed
from minutehand_apps.chat.services import Chat
from minutehand_apps.chat.sources import Passage, named_in

#: Sources that one piece of research reads at most.
MOST_SOURCES: Final = 5
#: A conversation is deleted earlier unless it is continued, and its pages with it.
PAGES_KEPT: Final = timedelta(days=365)
#: With more work than this in the queue nothing is slowed down to be watched.
CALM: Final = 5


@dataclass(frozen=True)
class Question:
    """What to ask a person; `default` is taken when no one answers."""

    text: str
    options: list[str]
    default: str


COLOURS: Final = Question(
    "Which colour scheme should the page have?", COLOUR_OPTIONS, COLOUR_OPTIONS[0]
)
NO_DATA: Final = Question(
    "Which data should the page show? Give lines such as “Jan 10”, a table, or dates with what"
    " happened. Without data no page is made.",
    ["Make no page"],
    "Make no page",
)


class WorkRun:
    """One run of one work item."""

    def __init__(self, app: Chat, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded) -> None:
        assert loaded.message is not None
        assert loaded.item is not None
        self.app = app
        self.ctx = ctx
        self.loaded = loaded
        self.item: Item = loaded.item
        self.request = loaded.message.request
        self._job = job
        self._queued = 0
        #: What people wrote to this work without being asked, in order.
        self.guidance: list[str] = []
        #: Questions and their answers.
        self.answers: list[tuple[str, str]] = []

    @property
    def said(self) -> list[str]:
        """Answers and guidance, the latest last."""
        return [*(answer for _, answer in self.answers), *self.guidance]

    async def stage(self, percentage: float, stage: str, message: str) -> None:
        """Show a stage, and take in what people have said since the one before."""
        self._show(percentage, stage, message)
        self.guidance, self._queued = await self.app.store.guidance(self._job.id, self._job.fence)

    def _show(self, percentage: float, stage: str, message: str) -> None:
        # a step that is done again, after an answer or a crash, takes no one back
        self.ctx.progress(max(percentage, self.loaded.percentage), stage, message)

    async def pace(self) -> None:
        """Leave people the time to see, guide and cancel what would be done in an instant.

        Not while others wait for this worker.
        """
        if self.app.own.pace_seconds > 0 and self._queued <= CALM:
            await asyncio.sleep(self.app.own.pace_seconds)

    async def ask(self, question: Question | None, name: str = "question") -> bool:
        """Ask, unless nothing is open or nothing may be asked, and take in the answer.

        Returns whether it is another than the default.
        """
        if question is None or not self.request.ask:
            return False
        seconds = self.request.ask_seconds
        self._show(10, "ANALYZING", question.text)
        asked = {"name": name, "default": question.default}
        await self.app.store.note(
            self._job.id, self._job.fence, type="question", content=question.text,
            options=question.options, expires_seconds=seconds, **asked,
        )  # fmt: skip
        answer = await self.ctx.ask(question.text, question.options, timeout=seconds, **asked)
        self.answers.append((question.text, answer or question.default))
        return self.answers[-1][1] != question.default

    async def ask_colours(self) -> None:
        """Ask for the colours of a page that is to be made, unless they were named."""
        words = [self.item.instruction, *self.said]
        await self.ask(None if any(map(look_of, words)) else COLOURS, "colours")

    async def passages(self) -> list[Passage]:
        """The sources of a topic: what was given, the corpus, and what a search finds.

        Raises:
            Pause: The search does not answer.
        """
        from minutehand_apps.chat.writing import Pause

        topic = "\n".join([self.item.instruction, *self.guidance])
        own = [*given_passages(self.loaded.documents), *named_in(topic)]
        if self.app.own.search_url is None:
            return own
        query = " ".join([self.item.title.partition(": ")[2] or self.item.title, *self.guidance])

        async def find() -> list[dict[str, Any]]:
            found = await self.app.search.find(query, limit=MOST_SOURCES)
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
        """Store a page as the job's file; what its message shows of it."""
        stored = await self.ctx.artefact(
            "page.html", render(page).encode(), "text/html; charset=utf-8", keep=PAGES_KEPT
        )
        return {"url": stored.url, "title": page.title[:200], "type": page.type}

    def result_data(
        self, parts: Sequence[Finding], sources: list[str], stored: dict[str, Any] | None
    ) -> dict[str, Any]:
        """What a result's message keeps beside its text."""
        return {
            "title": self.item.title,
            "kind": self.item.kind,
            "answer": self.answers[-1][1] if self.answers else None,
            "parts": [part.model_dump() for part in parts],
            "sources": sources,
            **({"artefact": stored} if stored else {}),
        }


def given_passages(documents: Sequence[Text]) -> list[Passage]:
    """The paragraphs of texts that came with a message."""
    return [
        Passage(each.title, "", part.strip())
        for each in documents
        for part in re.split(r"\n\s*\n", each.text)
        if part.strip()
    ]
