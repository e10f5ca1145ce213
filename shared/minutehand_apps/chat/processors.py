"""The processor of a message: it answers at once, or becomes work in stages.

Each step is remembered, so that a crash, a retry and an answered question never pay twice.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from minutehand.ai import SAMPLE, Prompt, TextSink, ask_for
from minutehand.config import Settings
from minutehand.worker import Backoff, Fail, Job, JobContext, Registry
from minutehand_apps.chat import prompts, script
from minutehand_apps.chat.models import (
    Answer,
    ChatPayload,
    Decision,
    Findings,
    Page,
    Progress,
    Result,
)
from minutehand_apps.chat.services import Chat

S = TypeVar("S", bound=BaseModel)

GONE: Final = "The session is gone"
BEGUN: Final = "I am working on this in the background; you can go on chatting."
BY_MODEL: Final = "From what the model knows; nothing was looked up."


class Processor:
    """One process's dependencies, and what is done with a message."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    async def run(self, job: Job[ChatPayload], ctx: JobContext) -> Result | Fail:
        """Decide, and answer or work."""
        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.text is None:
            return Fail(GONE)
        run = _Run(self._app, job, ctx, loaded.text, loaded.progress)
        decision = await run.ask(
            prompts.decide(loaded.text, loaded.history, may_work=self._app.works),
            Decision,
            lambda: script.decide(run.text),
            check=self._check_reply,
            says=("reply", "reply"),
        )
        if decision.tier != "async" or not self._app.works:
            reply = decision.reply or "Background work is off: set ENABLE_ASYNC_WORK=true."
            await run.say("reply", reply)
            return {"tier": decision.tier, "text": reply}
        return await run.work(decision)

    def _check_reply(self, decision: Decision) -> None:
        if not decision.reply and (decision.tier != "async" or not self._app.works):
            raise ValueError("reply is empty, and must hold the whole answer")


class _Run:
    """One run of one message's job."""

    def __init__(
        self, app: Chat, job: Job[ChatPayload], ctx: JobContext, text: str, came: Progress | None
    ) -> None:
        self._app = app
        self._job = job
        self._ctx = ctx
        self.text = text
        self._came = came or Progress(percentage=0, stage=None)

    async def work(self, decision: Decision) -> Result:
        """Do the work in stages; what it returns is the job's result."""
        title = decision.title or self.text[:80]
        await self.say("reply", BEGUN, work={"type": decision.type, "title": title})
        await self._stage(10, "ANALYZING", "Analyzing request...")
        answer = await self._question(decision)
        points: list[str] = []
        if decision.type == "research":
            await self._stage(30, "RESEARCHING", "Gathering information...")
            prompt = prompts.research(self.text, decision, answer)
            points = (await self.ask(prompt, Findings, script.research)).points
        await self._stage(45, "BUILDING", "Building the result...")
        made = await (self._page if decision.page else self._text)(decision, answer, points)
        await self._stage(100, "DONE", "Done")
        await self.say("info", made["text"])
        return {"tier": "async", "points": points, "answer": answer, **made}

    async def _page(self, decision: Decision, answer: str | None, points: Sequence[str]) -> Result:
        prompt = prompts.page(self.text, decision, answer, points)
        page = await self.ask(prompt, Page, lambda: script.page(answer))
        note = SAMPLE if self._app.model.offline else BY_MODEL
        return {"text": self._marked(page.summary), "page": {**page.model_dump(), "note": note}}

    async def _text(self, decision: Decision, answer: str | None, points: Sequence[str]) -> Result:
        prompt = prompts.write(self.text, decision, answer, points)
        found = await self.ask(
            prompt, Answer, lambda: Answer(text=script.write()), says=("result", "text")
        )
        return {"text": self._marked(found.text), "page": None}

    def _marked(self, text: str) -> str:
        """Say where a result comes from; the script says it in each of its texts."""
        return text if self._app.model.offline else f"{text}\n\n{BY_MODEL}"

    async def _question(self, decision: Decision) -> str | None:
        """Put the question whose answer changes the result; any words answer it."""
        if not decision.question:
            return None
        seconds = self._job.payload.ask_seconds or self._app.ask_seconds
        default = decision.options[0] if decision.options else "As you think best"
        expires_at = self._app.clock.now() + timedelta(seconds=seconds)
        asked = {
            "name": "question",
            "options": decision.options,
            "default": default,
            "expires_at": int(expires_at.timestamp() * 1000),
        }
        await self.say("question", decision.question, question=asked)
        answer = await self._ctx.ask(
            decision.question, timeout=seconds, default=default, name="question"
        )
        return str(answer)

    async def _stage(self, percentage: float, stage: str, message: str) -> None:
        came = self._came
        if (percentage, stage) == (came.percentage, came.stage) or percentage < came.percentage:
            return  # an earlier run said so
        self._ctx.progress(percentage, stage, message)
        if self._app.model.offline and percentage < 100:
            await asyncio.sleep(self._app.pace_seconds)

    async def ask(
        self,
        prompt: Prompt,
        shape: type[S],
        by_script: Callable[[], S],
        *,
        check: Callable[[S], None] | None = None,
        says: tuple[str, str] | None = None,
    ) -> S:
        """A step: what the model answers, or the script where there is none.

        Args:
            says: A stream, and the field whose words it says as they come.
        """
        stream, field = says or (None, None)

        async def answer(words: TextSink | None) -> S:
            model = self._app.model
            if not model.offline:
                return await ask_for(
                    self._job, self._ctx, model, prompt, shape, check=check, into=words, field=field
                )
            found = by_script()
            if words is not None:
                await self._recite(words, getattr(found, field or ""))
            return found

        async def run() -> S:
            if stream is None:
                return await answer(None)
            async with self._ctx.stream(stream) as words:
                return await answer(words)

        return shape.model_validate(await self._ctx.step(prompt.name, run))

    async def _recite(self, words: TextSink, text: str) -> None:
        """Say a sample word by word, as a model would."""
        for word in re.findall(r"\s*\S+", text):
            words.write(word)
            await asyncio.sleep(self._app.pace_seconds / 10)

    async def say(self, kind: Any, content: str, **more: Any) -> None:
        """Say something in the session, once."""
        await self._app.store.say(self._job.id, self._job.fence, kind, content, **more)


def register(registry: Registry, settings: Settings, *, app: Chat | None = None) -> Chat:
    """Add the processor to `registry`; returns what it holds, to be closed at the end."""
    app = app or Chat(settings)
    registry.processor(
        "chat_message",
        payload=ChatPayload,
        workspace_concurrency=25,
        timeout=600,  # four questions to a model, each with its own deadline
        backoff=Backoff(first=5, cap=300),
        internal=True,
    )(Processor(app).run)
    return app
