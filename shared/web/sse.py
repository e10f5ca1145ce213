"""Server-sent events: the durable event log read aloud, resumable by `Last-Event-ID`.

A feed reads the log with its reader's own token; the hub says when looking is worth it. What a
subject is (a job, a session, a workspace) is left to the feed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shared.clock import Clock
from shared.queue.errors import QueueError, QueueUnavailable, TokenRefused
from shared.web.hub import EventHub

logger = logging.getLogger(__name__)

MEDIA_TYPE = "text/event-stream"

KEEP_ALIVE = b": keep-alive\n\n"


@dataclass(frozen=True)
class Line:
    """One event of a feed; `cursor` is where to go on after it."""

    cursor: str
    type: str
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Batch:
    """What a look at the log brought; `end` is why nothing will follow, if nothing will."""

    lines: Sequence[Line] = ()
    end: str | None = None


class Feed(Protocol):
    """Reads one subject's log, forward from where it stands."""

    @property
    def topic(self) -> str:
        """The subject's name in the hub."""
        ...

    async def read(self) -> Batch:
        """What is new since the last read, a bounded number of lines at a time."""
        ...


@dataclass(frozen=True)
class Pace:
    """How a stream behaves in time; seconds throughout."""

    #: Keep the response open, or answer with what is there and let the client come back.
    streaming: bool
    #: Longest wait for a first event in a buffered answer: below any gateway's patience.
    buffered_wait: float = 20.0
    #: Between comments that keep proxies from closing an idle stream.
    keep_alive: float = 15.0
    #: Between looks at the log while no hint comes.
    poll: float = 1.0
    #: A reader that takes no data for so long is let go.
    stalled_after: float = 30.0
    #: What a client waits before it comes back.
    retry: float = 2.0


def frame(event: str, data: object, *, cursor: str | None = None) -> bytes:
    """One event as it travels; JSON has no bare line breaks, so one `data:` line is enough."""
    head = f"id: {cursor}\n" if cursor is not None else ""
    return f"{head}event: {event}\ndata: ".encode() + to_json(data) + b"\n\n"


async def stream(
    feed: Feed,
    hub: EventHub,
    *,
    pace: Pace,
    clock: Clock,
    expires_at: datetime,
    first: Batch | None = None,
) -> AsyncIterator[bytes]:
    """The bytes of one event stream.

    A last event `end` says why the stream closes: `completed`, `failed`, `cancelled`, `deleted`,
    `token_expired`, `forbidden` or `shutting_down`. A stream that merely pauses says nothing,
    and EventSource comes back by itself.

    Args:
        feed: The subject, standing at the reader's cursor.
        hub: Says when to look.
        pace: Streaming or buffered, and its times.
        clock: Compared with `expires_at`.
        expires_at: When the reader's token ends, and the stream with it.
        first: What was read already, to answer a missing subject before the stream begins.
    """
    yield f"retry: {int(pace.retry * 1000)}\n\n".encode()
    async with hub.subscribe(feed.topic) as news:
        batch = first if first is not None else await _look(feed)
        opened = quiet_since = clock.monotonic()
        while True:
            if batch.lines:
                yield b"".join(frame(e.type, e.data, cursor=e.cursor) for e in batch.lines)
                quiet_since = clock.monotonic()
            if batch.end is not None:
                yield frame("end", {"reason": batch.end})
                return
            if hub.closing:
                return
            if clock.now() >= expires_at:
                yield frame("end", {"reason": "token_expired"})
                return
            now = clock.monotonic()
            if not pace.streaming and (batch.lines or now - opened >= pace.buffered_wait):
                return
            if now - quiet_since >= pace.keep_alive:
                yield KEEP_ALIVE
                quiet_since = now
            if not batch.lines:
                left = (expires_at - clock.now()).total_seconds()
                await news.wait(max(0.0, min(pace.poll, left)))
            batch = await _look(feed)


async def _look(feed: Feed) -> Batch:
    """Read on; a database that is away only makes the stream wait."""
    try:
        return await feed.read()
    except QueueUnavailable as error:
        logger.warning(
            "an event stream waits for the database",
            extra={"event": "sse.waiting", "topic": feed.topic, "reason": str(error)},
        )
        return Batch()
    except TokenRefused:
        return Batch(end="token_expired")
    except QueueError as error:
        return Batch(end="deleted" if error.status == 404 else "forbidden")


class EventStream(Response):
    """A streamed response that ends with its client and lets go of one that stops reading."""

    media_type = MEDIA_TYPE
    charset = "utf-8"

    def __init__(self, chunks: AsyncIterator[bytes], *, stalled_after: float) -> None:
        self._chunks = chunks
        self._stalled_after = stalled_after
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
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})
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


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
