"""Server-sent events: the durable event log read aloud, resumable by `Last-Event-ID`.

A feed reads the log with its reader's own token; the hub says when looking is worth it. What a
subject is (a job, a session, a workspace) is left to the feed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Protocol

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from minutehand.clock import Clock
from minutehand.queue.errors import QueueError, QueueUnavailable, TokenRefused
from minutehand.queue.keys import redacted
from minutehand.tasks import end_tasks
from minutehand.web.hub import EventHub, Subscription
from minutehand.web.ring import Frame

logger = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"

#: The reason of an end that every other reader of the subject will find as well.
GONE = "gone"
KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True)
class Line:
    """One event of a feed; `cursor` is where to continue after it."""

    cursor: str
    type: str
    data: dict[str, Any] = field(repr=False)

    @cached_property
    def encoded(self) -> bytes:
        """The event as it travels; a line that many readers share is encoded once."""
        return frame(self.type, self.data, cursor=self.cursor)


class UnnamedLine(Line):
    """An event that EventSource hands to `onmessage`; its type is in the data."""

    @cached_property
    def encoded(self) -> bytes:
        """The event as it travels."""
        return frame(None, self.data, cursor=self.cursor)


@dataclass(frozen=True)
class Batch:
    """What a read of the log brought; `end` is the reason when nothing will follow."""

    lines: Sequence[Line] = ()
    end: str | None = None
    #: Read on without waiting: more is there, or it is not known whether this was the end.
    more: bool = False
    #: Where to continue although there were no lines.
    cursor: str | None = None
    #: The lines as other readers of the subject may have them.
    frames: Sequence[Frame] = ()


class Feed(Protocol):
    """Reads one subject's log, forward from its cursor."""

    @property
    def topic(self) -> str:
        """The subject's name in the hub."""
        ...

    @property
    def position(self) -> int | None:
        """Number of the last event sent; None where events have no numbers."""
        ...

    async def read(self, *, thorough: bool = False, since: float | None = None) -> Batch:
        """What is new since the last read, a bounded number of lines at a time.

        Args:
            thorough: If nothing is new, make sure that the subject is still there.
            since: Another reader's answer will do if it was asked for at this instant of the
                loop's clock or later; None when it must be the reader's own.
        """
        ...

    def absorb(self, frames: Sequence[Frame]) -> Batch | None:
        """The same from frames of the hub; None when the log must be read instead."""
        ...

    async def check(self) -> Batch:
        """Whether the subject still exists, between reads: an end, `more`, or nothing."""
        ...


@dataclass(frozen=True)
class Pace:
    """How a stream behaves in time; seconds throughout."""

    #: Keep the response open, or answer with what is there and let the client come back.
    streaming: bool
    #: Longest wait for a first event in a buffered answer. With `read_timeout` on top it must stay
    #: below the function's 28 s and the gateway's 30 s.
    buffered_wait: float = 20.0
    #: Longest wait for one read of the log; then it is repeated.
    read_timeout: float = 5.0
    #: Between comments that keep proxies from closing an idle stream.
    keep_alive: float = 15.0
    #: Between reads of the log while nothing reports updates.
    poll: float = 0.5
    #: Between two reads of the log under constant updates.
    breath: float = 0.05
    #: Between reads of the log that check that the subject exists and is still the reader's.
    check: float = 5.0
    #: A reader that takes no data for so long is let go.
    stalled_after: float = 30.0
    #: Between reads of the log while messages are held back to stay within a plan.
    look_again: float = 1.5
    #: What a client waits before it comes back.
    retry: float = 2.0


def frame(event: str | None, data: object, *, cursor: str | None = None) -> bytes:
    """One event as it travels; JSON has no bare line breaks, so one `data:` line is enough."""
    head = f"id: {cursor}\n" if cursor is not None else ""
    named = f"event: {event}\n" if event is not None else ""
    return f"{head}{named}data: ".encode() + to_json(data) + b"\n\n"


@dataclass(frozen=True)
class Reader:
    """Whose stream it is: its token opens the subject, and the stream ends with it."""

    #: None for a guest, who needs no more than the subject's name.
    token: str | None = field(repr=False)
    expires_at: datetime
    #: When the request came, on the monotonic clock: a gateway counts from there.
    began_at: float


class Stream:
    """One subject read aloud to one reader.

    A last event `end` says why the stream closes for good: `completed`, `failed`, `cancelled`,
    `gone` (deleted, or no longer the reader's), `token_expired` or `forbidden`. A stream that
    merely pauses says nothing, and EventSource reconnects.

    Between the events an event `freshness` without an id says `catching-up` when messages are held
    back to stay within Realtime's plan, and `live` when the reader has everything again.

    Args:
        is_bare: Leave out both: the feed's own last event says the end.
    """

    def __init__(
        self,
        feed: Feed,
        hub: EventHub,
        *,
        reader: Reader,
        pace: Pace,
        clock: Clock,
        is_bare: bool = False,
    ) -> None:
        self._feed = feed
        self._hub = hub
        self._reader = reader
        self._pace = pace
        self._clock = clock
        self._is_bare = is_bare
        self._read_at = clock.monotonic()
        # spread out, so that many streams opened together do not all check at once
        self._check_at = self._read_at + pace.check * random.uniform(0.5, 1.0)
        self._check: asyncio.Task[Batch] | None = None
        self._reported_held = False

    async def chunks(self, first: Batch) -> AsyncIterator[bytes]:
        """The bytes of the stream; `first` was read before it began."""
        # an id without data is remembered by EventSource and shown to no one
        start = f"id: {first.cursor}\n" if first.cursor is not None and not first.lines else ""
        yield f"retry: {int(self._pace.retry * 1000)}\n{start}\n".encode()
        topic, reader = self._feed.topic, self._reader
        try:
            async with self._hub.subscribe(
                topic, token=reader.token, until=reader.expires_at
            ) as subscription:
                if subscription.is_live:
                    # what came between the first read and now reached no one
                    subscription.wake(read=True)
                async for chunk in self._events(subscription, first):
                    yield chunk
        finally:
            if self._check is not None:
                self._check.cancel()

    async def _events(self, subscription: Subscription, batch: Batch) -> AsyncIterator[bytes]:
        clock, pace = self._clock, self._pace
        quiet_since = clock.monotonic()
        while True:
            if (is_held := subscription.held_at is not None) != self._reported_held:
                self._reported_held = is_held
                if not self._is_bare:
                    yield frame("freshness", {"freshness": "catching-up" if is_held else "live"})
            if batch.lines:
                yield b"".join(line.encoded for line in batch.lines)
                quiet_since = clock.monotonic()
            end = batch.end
            if end is None and clock.now() >= self._reader.expires_at:
                end = "token_expired"
            if end is not None:
                if end == GONE:
                    subscription.wake_others()
                if not self._is_bare:
                    yield frame("end", {"reason": end})
                return
            now = clock.monotonic()
            waited = now - self._reader.began_at >= pace.buffered_wait
            answered = not pace.streaming and not batch.more and (batch.lines or waited)
            if answered or self._hub.closing:
                return
            if now - quiet_since >= pace.keep_alive:
                yield KEEP_ALIVE
                quiet_since = now
            batch = await (self._more(subscription) if batch.more else self._next(subscription))

    async def _next(self, subscription: Subscription) -> Batch:
        """Wait for an update, for a while, and read if there is reason to."""
        self._check_now_and_then(subscription)
        notified = await subscription.wait(self._time_to_wait(subscription))
        must_read = subscription.must_read()
        thorough = must_read
        if subscription.held_at is not None and self._until_look_again() <= 0:
            must_read = True
        if self._check is not None and self._check.done():
            found = self._check.result()
            self._check = None
            if found.end is not None:
                return found
            must_read = must_read or found.more
            thorough = thorough or found.more  # the log may no longer hold what the job has had
        batch = None if must_read else self._kept(subscription, notified=notified)
        if batch is not None:
            return batch
        # the budget of reads is shared by all streams: with many of them, each reads less often
        wait = max(subscription.pause, self._pace.breath) - (
            self._clock.monotonic() - self._read_at
        )
        if wait > 0:
            await asyncio.sleep(wait)
            thorough = subscription.must_read() or thorough
        return await self._read_log(subscription, thorough=thorough)

    async def _more(self, subscription: Subscription) -> Batch:
        """Catch up: from what others have brought, else from the log."""
        position = self._feed.position
        frames = subscription.since(position) if position is not None else None
        batch = self._feed.absorb(frames) if frames else None
        return batch if batch is not None else await self._read_log(subscription)

    def _kept(self, subscription: Subscription, *, notified: bool) -> Batch | None:
        """What the hub has kept for everyone; None when the log must be read."""
        position = self._feed.position
        if position is None:
            return Batch() if subscription.is_live and not notified else None
        frames = subscription.since(position)
        if frames:
            return self._feed.absorb(frames)
        # nothing was kept: nothing is new, provided that updates arrive
        return Batch() if frames is not None and (notified or subscription.is_live) else None

    def _check_now_and_then(self, subscription: Subscription) -> None:
        """Begin a check beside the stream, which continues meanwhile."""
        now = self._clock.monotonic()
        if self._check is None and now >= self._check_at:
            self._check_at = now + max(self._pace.check, subscription.check_pause)
            self._check = asyncio.ensure_future(self._ask(self._feed.check()))
            self._check.add_done_callback(lambda _: subscription.wake(read=False))

    def _time_to_wait(self, subscription: Subscription) -> float:
        """Seconds to wait for an update before reading anyway."""
        pace = self._pace
        left = (self._reader.expires_at - self._clock.now()).total_seconds()
        check = self._check_at - self._clock.monotonic()
        # while updates arrive without polling, only the check and the comment are needed
        usual = (
            min(pace.keep_alive, check)
            if subscription.is_live
            else max(pace.poll, subscription.pause)
        )
        if subscription.held_at is not None:
            usual = min(usual, self._until_look_again())
        return max(0.001, min(usual, left))

    def _until_look_again(self) -> float:
        return self._pace.look_again - (self._clock.monotonic() - self._read_at)

    async def _read_log(self, subscription: Subscription, *, thorough: bool = False) -> Batch:
        """Read the log, and share what it brought with the subject's other readers."""
        self._read_at = self._clock.monotonic()
        # a poll expects nothing specific, so an answer as old as its interval is enough
        poll = asyncio.get_running_loop().time() - max(self._pace.poll, subscription.pause)
        since = None if thorough else max(subscription.notified_at, poll)
        began = asyncio.get_running_loop().time()
        batch = await self._ask(self._feed.read(thorough=thorough, since=since))
        held_at = subscription.held_at
        if held_at is not None and not (batch.lines or batch.more):
            # one that began well after the announcement and found nothing has seen all
            subscription.held_at = None if began - held_at > self._pace.look_again / 2 else held_at
        for each in batch.frames:
            subscription.share(each)
        return batch

    async def _ask(self, question: Awaitable[Batch]) -> Batch:
        """The answer; a database that is unavailable only makes the stream wait."""
        try:
            async with asyncio.timeout(self._pace.read_timeout):
                return await question
        except (QueueUnavailable, TimeoutError) as error:
            logger.warning(
                "an event stream waits for the database",
                extra={
                    "event": "sse.waiting",
                    "topic": redacted(self._feed.topic),
                    "reason": str(error) or type(error).__name__,
                },
            )
            return Batch()
        except TokenRefused:
            return Batch(end="token_expired")
        except QueueError as error:
            return Batch(end=GONE if error.status == 404 else "forbidden")


class EventStream(Response):
    """A streamed response that ends with its client and lets go of one that stops reading."""

    media_type = MEDIA_TYPE
    charset = "utf-8"

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        *,
        stalled_after: float,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._chunks = chunks
        self._stalled_after = stalled_after
        self._on_end = on_end
        self.background = None
        self.status_code = 200
        self.init_headers(
            {
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",  # nginx would hold events back
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends or the client goes."""
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._on_end()
            await end_tasks([sending, leaving])
        if not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async with contextlib.aclosing(self._chunks) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                try:
                    # send waits while the client's window is full
                    async with asyncio.timeout(self._stalled_after):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except TimeoutError:
                    logger.info("a reader stalled", extra={"event": "sse.stalled"})
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        continue
