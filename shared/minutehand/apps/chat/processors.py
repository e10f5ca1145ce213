"""The chat processors: a message's reply, and the background work that a message became.

Each posts one message at its end, once, however often it is begun.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from minutehand.apps.chat.models import ChatPayload, Item, Loaded, Posted, Text, Written
from minutehand.apps.chat.services import Chat
from minutehand.config import Settings
from minutehand.queue.errors import InvalidState, QueueError
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry

if TYPE_CHECKING:
    from minutehand.apps.chat.writing import Writer

Ending = dict[str, Any] | Fail | Retry | Snooze
GONE = "The conversation is gone"
NO_ROOM = (
    "There is no room for more work here now. Wait for some of it, or cancel some, and ask again."
)


class Processors:
    """The app's processors over one process's collaborators."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    async def reply(self, job: Job[ChatPayload], ctx: JobContext) -> Ending:
        """Answer a message, or begin the work it asks for and say so."""
        return await self._posting(job, ctx, self._reply)

    async def work(self, job: Job[ChatPayload], ctx: JobContext) -> Ending:
        """Do a work item in steps, asking back where that helps, and post its result."""
        return await self._posting(job, ctx, self._work)

    async def _posting(
        self, job: Job[ChatPayload], ctx: JobContext, write: Callable[..., Awaitable[Posted]]
    ) -> Ending:
        # here and not at the top: only who writes loads a language model
        from minutehand.apps.chat.writing import Pause, Writer

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.message is None:
            return Fail(GONE)
        if loaded.written is not None:  # the worker died before it could say so
            return {"message_id": str(loaded.written)}
        try:
            posted = await write(job, ctx, loaded, Writer(self._app, ctx))
        except Pause as pause:
            return pause.outcome
        except InvalidState as error:
            return Retry(str(error))  # of what was cancelled meanwhile there is no next time
        except QueueError as error:
            if error.word != "conversation_not_found":
                raise
            return Fail(GONE)
        found = {"work_items": [str(each) for each in posted.work_items]}
        return {"message_id": str(posted.message_id), **(found if posted.work_items else {})}

    async def _reply(
        self, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded, writer: Writer
    ) -> Posted:
        from minutehand.apps.chat import prompts

        message = loaded.message
        assert message is not None
        items, decided = await self._decide(loaded, writer)
        if items:
            return await self._delegate(job, items, decided)
        ctx.progress(5, "writing")
        prompt = prompts.reply(message.text, loaded.documents, loaded.history, message.request.seed)
        written = await writer.text(None, prompt, begin=5, end=95)
        return await self._app.store.post(job.id, job.fence, _sum(written, decided))

    async def _decide(self, loaded: Loaded, writer: Writer) -> tuple[list[Item], Written | None]:
        """The work a message asks for, and what it took to decide; no items for a plain reply."""
        from minutehand.apps.chat import prompts
        from minutehand.apps.chat.triage import items_of
        from minutehand.apps.chat.writing import Pause

        message = loaded.message
        assert message is not None
        forced = message.request.mode == "work"
        if message.request.mode == "reply":
            return [], None
        by_words = items_of(message.text, loaded.documents, forced=forced)
        if writer.offline:
            return by_words, None
        prompt = prompts.decide(
            message.text, loaded.documents, loaded.history, message.request.seed
        )
        try:
            decided = await writer.shaped("decide", prompt, prompts.Decision)
        except Pause as pause:
            if not isinstance(pause.outcome, Fail):
                raise
            return by_words, None  # a model that will not decide may answer all the same
        decision = prompts.Decision.model_validate(decided.data)
        items = [Item.model_validate(each.model_dump()) for each in decision.items]
        if decision.needs_work or forced:
            return items or (by_words if forced else []), decided
        return [], decided

    async def _delegate(
        self, job: Job[ChatPayload], items: list[Item], decided: Written | None
    ) -> Posted:
        store = self._app.store
        left = items
        while left:
            said = _sum(Written(text=_plan(left, skipped=len(items) - len(left))), decided)
            posted = await store.delegate(job.id, job.fence, left, said)
            if posted.message_id is not None:
                return posted
            left = left[: min(posted.room, len(left) - 1)]
        return await store.post(job.id, job.fence, _sum(Written(text=NO_ROOM), decided))

    async def _work(
        self, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded, writer: Writer
    ) -> Posted:
        from minutehand.apps.chat import prompts
        from minutehand.apps.chat.writing import Pause, together

        message, item = loaded.message, loaded.item
        assert message is not None
        if item is None:
            raise Pause(Fail(GONE))
        seed = message.request.seed
        texts = loaded.documents or [Text(title="The message", text=message.text)]
        ctx.progress(2, "scope", "Looking at what is wanted")
        scoped = await writer.shaped("scope", prompts.scope(item, texts, seed), prompts.Scope)
        scope = prompts.Scope.model_validate(scoped.data)
        answer = await self._ask(ctx, loaded, scope.questions[:1])
        parts = parts_of(item, texts, scope.parts)
        findings: list[tuple[str, str]] = []
        paid = [scoped]
        for number, (title, sources) in enumerate(parts, 1):
            ctx.progress(15 + 55 * (number - 1) / len(parts), f"part {number}", title)
            prompt = prompts.part(item, number, title, sources, answer, seed)
            found = await writer.shaped(f"part {number}", prompt, prompts.Finding)
            gist = prompts.Finding.model_validate(found.data).gist
            findings.append((title, gist))
            paid.append(found)
        ctx.progress(70, "result", "Writing the result")
        prompt = prompts.result(item, findings, answer, seed)
        written = together(await writer.text("result", prompt, begin=70, end=98), *paid)
        data = {
            "title": item.title,
            "kind": item.kind,
            "answer": answer,
            "parts": [{"title": title, "text": gist} for title, gist in findings],
        }
        ctx.progress(100, "posted", item.title)
        return await self._app.store.post(
            job.id, job.fence, written.model_copy(update={"data": data})
        )

    async def _ask(self, ctx: JobContext, loaded: Loaded, questions: list[Any]) -> str | None:
        """What the person says to the one question; None when nobody does, or there is none."""
        from minutehand.apps.chat.prompts import GO_ON

        message = loaded.message
        assert message is not None
        if not message.request.ask or not questions:
            return None
        asked = questions[0]
        ctx.progress(12, "asking", asked.question)
        options = [*(each for each in dict.fromkeys(asked.options) if each != GO_ON), GO_ON]
        answer = await ctx.ask(
            asked.question,
            options,
            timeout=message.request.ask_seconds,
            default=GO_ON,
            name="question",
        )
        return None if answer in {None, GO_ON} else f"{asked.question} {answer}"


def parts_of(item: Item, texts: list[Text], scoped: list[str]) -> list[tuple[str, list[Text]]]:
    """What is worked on one after the other: each text, or each question or section over all."""
    if item.kind in {"summarise", "compare"} and len(texts) > 1:
        return [(each.title, [each]) for each in texts]
    return [(title, texts) for title in scoped]


def _sum(written: Written, decided: Written | None) -> Written:
    """What was written, with what it took to decide on it."""
    if decided is None:
        return written
    return written.model_copy(
        update={
            "model": written.model or decided.model,
            "input_tokens": written.input_tokens + decided.input_tokens,
            "output_tokens": written.output_tokens + decided.output_tokens,
            "cost_usd": written.cost_usd + decided.cost_usd,
        }
    )


def _plan(items: list[Item], *, skipped: int) -> str:
    lines = ["I work on this in the background; go on chatting meanwhile."]
    lines += [f"- {item.title}" for item in items]
    if skipped:
        lines.append(f"{skipped} more had no room beside what is under way; ask again later.")
    return "\n".join(lines)


def register(registry: Registry, settings: Settings, *, app: Chat | None = None) -> Chat:
    """Add the app's processors to `registry`; returns what they hold, to be closed at the end."""
    app = app or Chat(settings)
    processors = Processors(app)
    backoff = Backoff(first=5, cap=120)
    registry.processor(
        "chat_reply",
        payload=ChatPayload,
        # a conversation's replies one after the other, each knowing the one before
        key_concurrency=1,
        max_attempts=4,
        backoff=Backoff(first=2, cap=60),
        internal=True,
    )(processors.reply)
    registry.processor(
        "chat_work",
        payload=ChatPayload,
        workspace_concurrency=10,
        # some eight requests to a model, each of which may take a minute
        timeout=780,
        max_attempts=4,
        backoff=backoff,
        internal=True,
    )(processors.work)
    return app
