"""The chat processors: a message's reply, and the background work that a message became.

Each posts one message at its end, once, however often it is begun. Work without a language model
is offline_work.py's, work with one online_work.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from minutehand.config import Settings
from minutehand.queue.errors import InvalidState, QueueError
from minutehand.worker.backoff import Backoff
from minutehand.worker.context import JobContext
from minutehand.worker.job import Job
from minutehand.worker.outcomes import Fail, Retry, Snooze
from minutehand.worker.registry import Registry
from minutehand_apps.chat.models import ChatPayload, Item, Loaded, Posted, Written
from minutehand_apps.chat.services import Chat

if TYPE_CHECKING:
    from minutehand_apps.chat.writing import Writer

Ending = dict[str, Any] | Fail | Retry | Snooze
GONE = "The conversation is gone"
NO_ROOM = "The queue takes no more work from here now. Wait for some of it, or cancel some."


class Processors:
    """The app's processors over one process's dependencies."""

    def __init__(self, app: Chat) -> None:
        self._app = app

    async def reply(self, job: Job[ChatPayload], ctx: JobContext) -> Ending:
        """Answer a message, or begin the work it asks for and say so."""
        return await self._posting(job, ctx, self._reply)

    async def work(self, job: Job[ChatPayload], ctx: JobContext) -> Ending:
        """Do a work item in steps, asking where that changes the result, and post it."""
        return await self._posting(job, ctx, self._work)

    async def _posting(
        self, job: Job[ChatPayload], ctx: JobContext, write: Callable[..., Awaitable[Posted]]
    ) -> Ending:
        # here and not at the top: only writing needs a language model
        from minutehand_apps.chat.writing import Writer

        loaded = await self._app.store.load(job.id, job.fence)
        if loaded.message is None:
            return Fail(GONE)
        if loaded.written is not None:  # the worker died before it could say so
            return {"message_id": str(loaded.written)}
        try:
            posted = await write(job, ctx, loaded, Writer(self._app, ctx, floor=loaded.percentage))
        except InvalidState as error:
            return Retry(str(error))  # a job cancelled meanwhile has no next attempt
        except QueueError as error:
            if error.word != "conversation_not_found":
                raise
            return Fail(GONE)
        found = {"work_items": [str(each) for each in posted.work_items]}
        return {"message_id": str(posted.message_id), **(found if posted.work_items else {})}

    async def _reply(
        self, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded, writer: Writer
    ) -> Posted:
        from minutehand_apps.chat import prompts
        from minutehand_apps.chat.writing import together

        message = loaded.message
        assert message is not None
        items, decided, tier, reasons = await self._decide(loaded, writer)
        if items:
            return await self._delegate(job, items, decided, reasons)
        if writer.offline:
            written = await self._offline_reply(loaded, tier)
        else:
            ctx.progress(5, "writing")
            prompt = prompts.reply(
                message.text, loaded.documents, loaded.history, message.request.seed
            )
            written = await writer.text(None, prompt, begin=5, end=95)
        written = together(written, decided) if decided else written
        written = written.model_copy(update={"data": {"tier": tier, "reasons": reasons}})
        return await self._app.store.post(job.id, job.fence, written)

    async def _offline_reply(self, loaded: Loaded, tier: str) -> Written:
        """A passage that answers, quoted; else what a model would need."""
        from minutehand_apps.chat import offline
        from minutehand_apps.chat.sources import named_in
        from minutehand_apps.chat.work_run import given_passages

        assert loaded.message is not None
        question, text = loaded.message.text, offline.NO_MODEL
        if tier != "instant":
            passages = [*given_passages(loaded.documents), *named_in(question)]
            found = await self._app.store.matching(question, passages)
            text = offline.answer(found)
        return Written(text=text, model=offline.NAME, offline=True)

    async def _decide(
        self, loaded: Loaded, writer: Writer
    ) -> tuple[list[Item], Written | None, str, list[str]]:
        """The work a message asks for, what it took to decide, the tier, and why.

        There are no items for a direct reply.
        """
        from minutehand_apps.chat import prompts
        from minutehand_apps.chat.classifier import classify
        from minutehand_apps.chat.writing import Pause

        message = loaded.message
        assert message is not None
        forced = message.request.mode == "work"
        by_rules = classify(message.text, loaded.documents, forced=forced)
        if message.request.mode == "reply" or not self._app.own.async_work:
            tier = "instant" if by_rules.tier == "instant" else "standard"
            return [], None, tier, ["a direct answer was requested"]
        if writer.offline or by_rules.tier == "instant":
            return by_rules.items, None, by_rules.tier, by_rules.reasons
        prompt = prompts.decide(
            message.text, loaded.documents, loaded.history, message.request.seed
        )
        try:
            decided = await writer.shaped("decide", prompt, prompts.Decision)
        except Pause as pause:
            if not isinstance(pause.outcome, Fail):
                raise
            # the rules decide where the model does not
            return by_rules.items, pause.used, by_rules.tier, by_rules.reasons
        decision = prompts.Decision.model_validate(decided.data)
        items = [Item.model_validate(each.model_dump()) for each in decision.items]
        if forced and not items:
            items = by_rules.items
        why = decision.reason or "the model decided so"
        if items and (decision.needs_work or forced):
            return items, decided, "async", [why]
        return [], decided, "standard", [why]

    async def _delegate(
        self, job: Job[ChatPayload], items: list[Item], decided: Written | None, reasons: list[str]
    ) -> Posted:
        from minutehand_apps.chat.writing import together

        def said(text: str) -> Written:
            written = Written(text=text, data={"reasons": reasons})
            return together(written, decided) if decided else written

        posted = await self._app.store.delegate(job.id, job.fence, items, said("…"))
        if posted.message_id is not None:
            return posted
        return await self._app.store.post(job.id, job.fence, said(NO_ROOM))

    async def _work(
        self, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded, writer: Writer
    ) -> Posted:
        from minutehand_apps.chat.offline_work import OfflineWork
        from minutehand_apps.chat.online_work import OnlineWork
        from minutehand_apps.chat.work_run import WorkRun
        from minutehand_apps.chat.writing import Pause

        if loaded.item is None:
            raise Pause(Fail(GONE))
        run = WorkRun(self._app, job, ctx, loaded)
        if writer.offline:
            written = await OfflineWork(run).write()
        else:
            written = await OnlineWork(run, writer).write()
        ctx.progress(100, "DONE", loaded.item.title)
        return await self._app.store.post(job.id, job.fence, written)


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
        # what is more waits in the queue, and is said to: chat.room reads both from here
        workspace_concurrency=25,
        key_concurrency=5,
        # some eight requests to a model, each of which may take a minute
        timeout=780,
        max_attempts=4,
        backoff=backoff,
        internal=True,
    )(processors.work)
    return app
