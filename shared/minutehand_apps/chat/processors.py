"""The processor of a chat message, which replies immediately or does work in stages.

Each call of the model is a step, so that the model is not paid again after a crash, a retry or an
answered question.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel

from minutehand.ai import SAMPLE, Prompt, TextSink, ask_for
from minutehand.config import Settings
from minutehand.queue import reading
from minutehand.worker import Backoff, Fail, Job, JobContext, Registry
from minutehand_apps.chat import prompts, script
from minutehand_apps.chat.models import (
    Answer,
    ChatPayload,
    Decision,
    Findings,
    Loaded,
    Page,
    Progress,
    Result,
)
from minutehand_apps.chat.services import Chat

S = TypeVar("S", bound=BaseModel)

DELETED = "The session was deleted"
STARTED = "I am working on this in the background. You can continue to chat."
BY_MODEL = "From the model's knowledge, without research."


class Processor:
    """The processor of chat messages, and its dependencies."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    async def run(self, job: Job[ChatPayload], ctx: JobContext) -> Result | Fail:
        """Let the model decide how to handle the message, then reply or do the work."""
        loaded: Loaded = await self._app.worker.call_held(
            "chat_load", job.id, job.fence, parse=reading(Loaded)
        )
        if loaded.text is None:
            return Fail(DELETED)
        run = _Run(self._app, job, ctx, loaded.text, loaded.progress)
        decision = await run.ask(
            prompts.decide(loaded.text, loaded.history, may_work=self._app.works, said=loaded.said),
            Decision,
            lambda: script.decide(run.text),
            check=self._check_reply,
            streams=("reply", "reply"),
            patient=False,
        )
        if decision.tier != "async" or not self._app.works:
            reply = decision.reply or "Background work is off: set ENABLE_ASYNC_WORK=true."
            await run.say("reply", reply)
            return {"tier": decision.tier, "text": reply}
        return await run.work(decision)

    def _check_reply(self, decision: Decision) -> None:
        if not decision.reply and (decision.tier != "async" or not self._app.works):
            raise ValueError("reply must contain the whole answer")


class _Run:
    """One attempt of the job for one message."""

    def __init__(
        self, app: Chat, job: Job[ChatPayload], ctx: JobContext, text: str, earlier: Progress | None
    ) -> None:
        self._app = app
        self._job = job
        self._ctx = ctx
        self.text = text
        self._earlier = earlier or Progress(percentage=0, stage=None)

    async def work(self, decision: Decision) -> Result:
        """Do the work in stages. Return the result of the job."""
        title = decision.title or self.text[:80]
        await self.say("reply", STARTED, work={"type": decision.type, "title": title})
        await self._stage(10, "ANALYZING", "Analyzing request...")
        answer = await self._question(decision)
        points: list[str] = []
        if decision.type == "research":
            await self._stage(30, "RESEARCHING", "Gathering information...")
            prompt = prompts.research(self.text, decision, answer)
            points = (await self.ask(prompt, Findings, script.research)).points
        await self._stage(45, "BUILDING", "Building the result...")
        result = await (self._page if decision.page else self._text)(decision, answer, points)
        await self._stage(100, "DONE", "Done")
        await self.say("info", result["text"])
        return {"tier": "async", "points": points, "answer": answer, **result}

    async def _page(self, decision: Decision, answer: str | None, points: Sequence[str]) -> Result:
        prompt = prompts.page(self.text, decision, answer, points)
        page = await self.ask(prompt, Page, lambda: script.page(answer))
        footer = SAMPLE if self._app.model.offline else BY_MODEL
        return {"text": self._marked(page.summary), "page": {**page.model_dump(), "note": footer}}

    async def _text(self, decision: Decision, answer: str | None, points: Sequence[str]) -> Result:
        prompt = prompts.write(self.text, decision, answer, points)
        result = await self.ask(
            prompt, Answer, lambda: Answer(text=script.write()), streams=("result", "text")
        )
        return {"text": self._marked(result.text), "page": None}

    def _marked(self, text: str) -> str:
        """Append the source of a result to its text.

        A sample is marked as a sample instead.
        """
        if self._app.model.offline:
            return f"{SAMPLE.capitalize()}, so this does not answer the request."
        return f"{text}\n\n{BY_MODEL}"

    async def _question(self, decision: Decision) -> str | None:
        """Ask the user a question if its answer changes the result. Return the answer."""
        if not decision.question:
            return None
        seconds = self._job.payload.ask_seconds or self._app.ask_seconds
        default = decision.options[0] if decision.options else "As you think best"
        expires_at = self._ctx.clock.now() + timedelta(seconds=seconds)
        question = {
            "options": decision.options,
            "default": default,
            "expires_at": int(expires_at.timestamp() * 1000),
        }
        await self.say("question", decision.question, question=question)
        answer = await self._ctx.ask(
            decision.question, timeout=seconds, default=default, name="question"
        )
        return str(answer)

    async def _stage(self, percentage: float, stage: str, message: str) -> None:
        earlier = self._earlier
        if (percentage, stage) == (
            earlier.percentage,
            earlier.stage,
        ) or percentage < earlier.percentage:
            return  # an earlier attempt has already reported this stage
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
        streams: tuple[str, str] | None = None,
        patient: bool = True,
    ) -> S:
        """Run a step with the model. If no model is configured, use the sample instead.

        Args:
            streams: Name of a stream, and the field of the answer whose text the stream gets.
            patient: Passed to `ask_for`.
        """
        stream, field = streams or (None, None)

        async def answer(words: TextSink | None) -> S:
            model = self._app.model
            if not model.offline:
                options: Any = {"check": check, "into": words, "field": field, "patient": patient}
                return await ask_for(self._job, self._ctx, model, prompt, shape, **options)
            sample = by_script()
            if words is not None:
                await self._recite(words, getattr(sample, field or ""))
            return sample

        async def run() -> S:
            if stream is None:
                return await answer(None)
            async with self._ctx.stream(stream) as words:
                return await answer(words)

        return shape.model_validate(await self._ctx.step(prompt.name, run))

    async def _recite(self, words: TextSink, text: str) -> None:
        """Write a sample into a stream word by word, as a model would."""
        for word in re.findall(r"\s*\S+", text):
            words.write(word)
            await asyncio.sleep(self._app.pace_seconds / 10)

    async def say(self, kind: Any, content: str, **fields: Any) -> None:
        """Post a message in the session. SQL stores only one message per kind.

        Args:
            fields: Either `question` {options, default, expires_at}, or `work` {type, title}.
        """
        arguments = {"type": kind, "content": content, **fields}
        await self._app.worker.call_held("chat_say", self._job.id, self._job.fence, **arguments)


def register(registry: Registry, settings: Settings, *, app: Chat | None = None) -> Chat:
    """Add the processor to the registry.

    Return the app's dependencies, which the caller closes at exit.
    """
    app = app or Chat(settings)
    registry.processor(
        "chat_message",
        payload=ChatPayload,
        workspace_concurrency=25,
        timeout=600,  # enough for four calls of a model, each with its own deadline
        backoff=Backoff(first=5, cap=300),
        internal=True,
    )(Processor(app).run)
    return app
