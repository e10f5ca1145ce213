"""The chat processors: a message's reply, and the background work that a message became.

Each posts one message at its end, once, however often it is begun. Work without a language model
is offline_work.py's, work with one online_work.py's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from minutehand.apps.chat.models import ChatPayload, Item, Loaded, Posted, Written
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
        from minutehand.apps.chat import prompts
        from minutehand.apps.chat.offline import answers, instant
        from minutehand.apps.chat.writing import together

        message = loaded.message
        assert message is not None
        items, decided, reasons = await self._decide(loaded, writer)
        if items:
            return await self._delegate(job, items, decided)
        exact = instant.answer(message.text, now=self._app.clock.now())
        if exact is not None or writer.offline:
            text = exact or answers.reply(message.text, loaded.documents, loaded.history)
            written = Written(text=text, model="rules, no language model", offline=True)
        else:
            ctx.progress(5, "writing")
            prompt = prompts.reply(
                message.text, loaded.documents, loaded.history, message.request.seed
            )
            written = await writer.text(None, prompt, begin=5, end=95)
        written = together(written, decided) if decided else written
        tier = "instant" if exact is not None else "standard"
        written = written.model_copy(update={"data": {"tier": tier, "reasons": reasons}})
        return await self._app.store.post(job.id, job.fence, written)

    async def _decide(
        self, loaded: Loaded, writer: Writer
    ) -> tuple[list[Item], Written | None, list[str]]:
        """The work a message asks for, what it took to decide, and why; no items for a reply."""
        from minutehand.apps.chat import prompts
        from minutehand.apps.chat.classifier import classify
        from minutehand.apps.chat.writing import Pause

        message = loaded.message
        assert message is not None
        forced = message.request.mode == "work"
        if message.request.mode == "reply" or not self._app.own.async_work:
            return [], None, ["a direct answer was requested"]
        by_rules = classify(message.text, loaded.documents, forced=forced)
        if writer.offline or by_rules.tier == "instant":
            return by_rules.items, None, by_rules.reasons
        prompt = prompts.decide(
            message.text, loaded.documents, loaded.history, message.request.seed
        )
        try:
            decided = await writer.shaped("decide", prompt, prompts.Decision)
        except Pause as pause:
            if not isinstance(pause.outcome, Fail):
                raise
            # the rules decide where the model does not
            return by_rules.items, pause.used, by_rules.reasons
        decision = prompts.Decision.model_validate(decided.data)
        items = [Item.model_validate(each.model_dump()) for each in decision.items]
        if decision.needs_work or forced:
            return items or (by_rules.items if forced else []), decided, ["the model decided so"]
        return [], decided, ["the model decided so"]

    async def _delegate(
        self, job: Job[ChatPayload], items: list[Item], decided: Written | None
    ) -> Posted:
        from minutehand.apps.chat.writing import together

        def said(text: str) -> Written:
            return together(Written(text=text), decided) if decided else Written(text=text)

        posted = await self._app.store.delegate(job.id, job.fence, items, said("…"))
        if posted.message_id is not None:
            return posted
        return await self._app.store.post(job.id, job.fence, said(NO_ROOM))

    async def _work(
        self, job: Job[ChatPayload], ctx: JobContext, loaded: Loaded, writer: Writer
    ) -> Posted:
        from minutehand.apps.chat.offline_work import OfflineWork
        from minutehand.apps.chat.online_work import OnlineWork
        from minutehand.apps.chat.work_run import WorkRun
        from minutehand.apps.chat.writing import Pause

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
