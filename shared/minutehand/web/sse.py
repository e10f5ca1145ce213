"""Server-sent events: the durable event log read aloud, resumable by `Last-Event-ID`.

Each connection reads the log after its own cursor with its reader's own token, so row level
security decides what it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Final, Protocol

from fastapi import Request, Response
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from minutehand.queue.client import UserQueue
from minutehand.queue.credentials import redacted
from minutehand.queue.data_api import patiently
from minutehand.queue.errors import QueueError, QueueUnavailable, RateLimited, TokenRefused
from minutehand.queue.models import ENDED, FeedPage, JobEvent
from minutehand.tasks import first_of
from minutehand.web.caller import Caller, holder_of
from minutehand.web.errors import ApiError, invalid_argument
from minutehand.web.listener import News
from minutehand.web.services import Pace, Services

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "text/event-stream"
#: Events of one read; a stream far behind catches up in several.
READ_LIMIT: Final = 500
#: Longest wait for a first event in an app's buffered answer: the `jobs` function has 20 s in all.
BUFFERED_SECONDS: Final = 12.0
#: The cursor before everything that ever happened.
BEGINNING: Final = "1:1:"
#: What a stream of a job has said: no event of its history, and no `seq`.
OUTPUT: Final = "job.output"
_Count = Annotated[int, Field(ge=0, lt=2**31)]
_Ends = dict[str, dict[str, _Count]]
_OUTPUT: Final = TypeAdapter(_Ends)
_OUTPUT_BY_JOB: Final = TypeAdapter(dict[str, _Ends])
#: Characters of a session's place that say how far streams are; a reader sends them back.
_MOST_PLACE: Final = 6000
_ENDS: Final = frozenset({f"job.{status}" for status in ENDED})


@dataclass(frozen=True)
class Line:
    """One event of a feed; `cursor` is where to continue after it, no `type` is `onmessage`."""

    cursor: str
    type: str | None
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class JobPlace:
    """How far a reader of a job is: its last event, and the attempt and end of each stream."""

    seq: int = 0
    output: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """What a read of the log brought; `end` is the reason when nothing will follow."""

    lines: Sequence[Line] = ()
    end: str | None = None
    #: Read on without waiting.
    more: bool = False
    #: Where to continue although there were no lines.
    cursor: str | None = None


class Feed(Protocol):
    """Reads one subject's log, forward from its cursor; `subject` is a topic: `session:<id>`."""

    subject: str

    async def read(self) -> Batch:
        """What is new since the last read, a bounded number of lines at a time."""
        ...


class JobFeed:
    """One job's events by `seq`, and what its streams say by offset; it ends when the job has."""

    def __init__(
        self, queue: UserQueue, job_id: str, *, after: JobPlace, session_id: str | None = None
    ) -> None:
        self.subject = f"job:{job_id}"
        self._queue = queue
        self._job_id = job_id
        self._seq = after.seq
        self._output = dict(after.output)
        self._session_id = session_id

    async def read(self) -> Batch:
        """Words, then the events that were there when these were read: an end has its last words.

        One call says what there is; events are read where there are any.
        """
        found = await self._queue.call(
            "job_output", job_id=self._job_id, after=self._output, session_id=self._session_id
        )
        is_all = not any(page["more"] for page in found["streams"])
        is_news = is_all and found["last_seq"] > self._seq
        events = await self._after(self._seq) if is_news else []
        # from here on nothing fails: what was read is said
        lines = []
        for page in found["streams"]:
            self._output[page["stream"]] = {"attempt": page["attempt"], "next": page["next"]}
            lines.append(_output_line(self._job_id, page, self._place(self._seq)))
        if not is_all:
            return Batch(lines, more=True)
        shown = [event for event in events if event.seq <= found["last_seq"]]
        lines += [_line(event, self._place(event.seq)) for event in shown]
        # what a page that is not full lacks is no longer kept
        is_full = len(shown) == READ_LIMIT
        self._seq = shown[-1].seq if is_full else max(self._seq, found["last_seq"])
        more = is_full or len(shown) < len(events)
        end = found["status"] if found["status"] in ENDED and not more else None
        return Batch(lines, end=end, more=more)

    def _place(self, seq: int) -> str:
        """The cursor behind an event, and behind what the streams have said."""
        return f"{seq} {json.dumps(self._output)}" if self._output else str(seq)

    async def _after(self, seq: int) -> list[JobEvent]:
        if self._session_id is None:
            return await self._queue.events_after(self._job_id, seq, limit=READ_LIMIT)
        return await self._queue.guest_events_after(self._session_id, self._job_id, seq)


class HistoryFeed:
    """The events of many jobs, a workspace's or a session's; it never ends.

    Its cursors are the database's snapshots, so that each event comes exactly once, in any
    order transactions commit; per job in order of `seq`.

    Args:
        read_after: Reads a page with the reader's own token.
        after: Where to begin; None for the subject's own beginning.
    """

    def __init__(
        self,
        subject: str,
        read_after: Callable[[str | None], Awaitable[FeedPage]],
        *,
        after: str | None,
    ) -> None:
        self.subject = subject
        self._read_after = read_after
        self._cursor = after

    async def page(self) -> FeedPage:
        """The events after the last ones read, as the database gives them."""
        page = await self._read_after(self._cursor)
        self._cursor = page.cursor
        return page

    async def read(self) -> Batch:
        """The same as lines; `reset` comes first when events may have been missed."""
        return self._batch(await self.page())

    def _batch(self, page: FeedPage) -> Batch:
        # the last by the page's own: what it has passed over is not read again
        cursors = [*page.places[:-1], page.cursor] if page.events else []
        lines = [_line(event, cursor) for event, cursor in zip(page.events, cursors, strict=True)]
        if page.reset:
            lines.insert(0, Line(page.cursor, "reset", {"reason": "cursor"}))
        return Batch(lines, more=page.more, cursor=page.cursor)


class SessionFeed(HistoryFeed):
    """A session's events, and what the streams of its jobs say by offset; it never ends.

    The place of a reader names the streams of jobs that have not ended: of one that has, all was
    said before its end.

    Args:
        after: Where to begin, as the place of a line says it.
    """

    def __init__(self, queue: UserQueue, session_id: str, *, after: str | None) -> None:
        cursor, self._output = _session_place(after)
        self._queue = queue
        self._session_id = session_id
        self._before = cursor or BEGINNING
        self._page: FeedPage | None = None  # read, and said after the words that came before
        super().__init__(
            f"session:{session_id}", lambda at: queue.session_feed(session_id, at), after=cursor
        )

    async def read(self) -> Batch:
        """What jobs have said, and then the events that were there before."""
        if (page := self._page) is None:
            page, found = await asyncio.gather(self._next_page(), self._news())
            if page.events or page.reset:
                found = await self._news()  # an end comes with its last words
        else:
            found = await self._news()
        said = self._said(found)
        if found["more"]:
            return Batch(said, more=True)
        last: dict[str, int] = {event.job_id: event.seq for event in page.events}
        lines = []
        for line in self._batch(page).lines:
            if line.type in _ENDS and line.data["seq"] == last[line.data["job_id"]]:
                self._output.pop(line.data["job_id"])
            lines.append(replace(line, cursor=self._place(line.cursor)))
        self._output = {job_id: ends for job_id, ends in self._output.items() if ends}
        self._before, self._page = page.cursor, None
        return Batch([*said, *lines], more=page.more, cursor=self._place(page.cursor))

    async def _next_page(self) -> FeedPage:
        page = self._page = await self.page()
        if page.reset:
            self._before, self._output = page.cursor, {}
        for event in page.events:
            self._output.setdefault(event.job_id, {})
        return page

    async def _news(self) -> dict[str, Any]:
        """What the session's jobs have said behind what is known."""
        return await self._queue.call(
            "session_output", session_id=self._session_id, after=self._output
        )

    def _said(self, found: dict[str, Any]) -> list[Line]:
        lines = []
        for job in found["jobs"]:
            for page in job["streams"]:
                ends = self._output.setdefault(job["job_id"], {})
                ends[page["stream"]] = {"attempt": page["attempt"], "next": page["next"]}
                lines.append(_output_line(job["job_id"], page, self._place(self._before)))
        return lines

    def _place(self, cursor: str) -> str:
        """The cursor with how far the streams are; beyond its bound the oldest begin again."""
        ends = [json.dumps({job_id: ends}) for job_id, ends in self._output.items() if ends]
        while sum(map(len, ends)) > _MOST_PLACE:
            del ends[0]
        return f"{cursor} {{{', '.join(each[1:-1] for each in ends)}}}" if ends else cursor


def _output_line(job_id: str, page: dict[str, Any], place: str) -> Line:
    return Line(place, OUTPUT, {"job_id": job_id, "type": OUTPUT, "data": page})


def _line(event: JobEvent, cursor: str) -> Line:
    data = event.model_dump(include={"job_id", "seq", "type", "data"})
    return Line(cursor, event.type, {**data, "at": event.created_at})


def job_place(last_event_id: str | None, after: int | None) -> JobPlace:
    """Where a job's stream starts, as `seq_cursor`; `Last-Event-ID` also says which output."""
    seq, _, said = (last_event_id or "").strip().partition(" ")
    try:
        output = _OUTPUT.validate_json(said or "{}")
    except ValidationError:
        raise _unknown_cursor() from None
    return JobPlace(seq_cursor(seq, after), output)


def _session_place(after: str | None) -> tuple[str | None, dict[str, _Ends]]:
    """The cursor of a session's place, and how far streams of its jobs are."""
    cursor, _, said = (after or "").partition(" ")
    try:
        return cursor or None, _OUTPUT_BY_JOB.validate_json(said or "{}")
    except ValidationError:
        raise _unknown_cursor() from None


def _unknown_cursor() -> ApiError:
    text = "is not a valid cursor for this stream"
    return invalid_argument("Last-Event-ID", text, location="header")


def seq_cursor(last_event_id: str | None, after: int | None) -> int:
    """Where a job's stream starts: `Last-Event-ID` if there is one, else `after`, else 0."""
    text = (last_event_id or "").strip()
    if not text:
        return after or 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise _unknown_cursor()
    return int(text)


async def answer(
    request: Request,
    services: Services,
    caller: Caller | None,
    feed: Feed,
    *,
    wait: float | None = None,
    is_bare: bool = False,
    is_resumed: bool = False,
) -> Response:
    """The answer that reads `feed` aloud.

    A last event `end` says why the stream closes for good: `completed`, `failed`, `cancelled`,
    `gone` (deleted, or no longer the reader's), `token_expired` or `forbidden`. A stream that
    merely pauses says nothing, and EventSource reconnects.

    Args:
        wait: The longest wait for a first event where answers are buffered.
        is_bare: Leave the event `end` out: the feed's own last event says it.
        is_resumed: Answer 204, which stops EventSource, when nothing is left.
    """
    pace = services.pace
    until = services.clock.monotonic() + min(pace.buffered_wait, wait or pace.buffered_wait)
    reader = f"reads of {holder_of(request.scope, caller)}"
    reading = partial(services.requests.turn, reader, 2)  # of few connections that all share
    with contextlib.ExitStack() as held:
        held.enter_context(services.waiting(request, caller))
        if caller is not None and not pace.streaming:
            await services.queue_of(caller).call("open_stream", repeatable=False)
        async with reading():
            first = await patiently(feed.read, within=pace.read_timeout)
        if is_resumed and first.end is not None and not first.lines:
            return Response(status_code=204)
        news = held.enter_context(services.news.of(feed.subject))
        chunks = _chunks(services, caller, feed, first, news, reading, until=until, is_bare=is_bare)
        return _EventStream(chunks, pace, on_end=held.pop_all().close)


async def _chunks(
    services: Services,
    caller: Caller | None,
    feed: Feed,
    batch: Batch,
    news: asyncio.Event,
    reading: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    *,
    until: float,
    is_bare: bool,
) -> AsyncIterator[bytes]:
    clock, pace = services.clock, services.pace
    # the database ends a guest session, and the next read finds that
    expires_at = caller.expires_at if caller else clock.now() + timedelta(days=31)
    # an id without data is remembered by EventSource and shown to no one
    yield _encoded(retry=int(pace.retry * 1000), id=None if batch.lines else batch.cursor)
    pause = pace.poll
    while True:
        if batch.lines:
            yield b"".join(
                _encoded(line.data, event=line.type, id=line.cursor) for line in batch.lines
            )
        left = (expires_at - clock.now()).total_seconds()
        end = batch.end or ("token_expired" if left <= 0 else None)
        if end is not None:
            if not is_bare:
                yield _encoded({"reason": end}, event="end")
            return
        answered = not batch.more and (batch.lines or clock.monotonic() >= until)
        if services.closing.is_set() or (answered and not pace.streaming):
            return
        if not batch.more:
            if services.news.is_live:
                pause = pace.most_look
            else:
                pause = pace.poll if batch.lines else min(pause * 1.5, pace.most_poll)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, max(left, 0.0))):
                    await first_of(news.wait(), services.closing.wait())
        async with reading():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(services.reads.seconds_left()):
                    await services.closing.wait()
            news.clear()
            batch = await _read(services.news, feed, pace.read_timeout)


async def _read(news: News, feed: Feed, seconds: float) -> Batch:
    """What is new; a database that is unavailable only makes the stream wait."""
    try:
        async with asyncio.timeout(seconds):
            await news.name(feed.subject)
            return await patiently(feed.read, within=seconds)
    except (QueueUnavailable, RateLimited, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        extra = {"event": "sse.waiting", "subject": redacted(feed.subject), "reason": reason}
        logger.warning("an event stream waits for the database", extra=extra)
        return Batch()
    except TokenRefused:
        return Batch(end="token_expired")
    except QueueError as error:
        return Batch(end="gone" if error.status == 404 else "forbidden")


def _encoded(data: object = None, **more: Any) -> bytes:
    text = None if data is None else to_json(data).decode()
    return ServerSentEvent(text, sep="\n", **more).encode()


class _EventStream(EventSourceResponse):
    """Ends with its client, and lets go of one that takes no data."""

    def __init__(
        self, chunks: AsyncIterator[bytes], pace: Pace, *, on_end: Callable[[], None]
    ) -> None:
        super().__init__(
            chunks,
            headers={"cache-control": "no-cache, no-transform"},
            ping=pace.keep_alive,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
            send_timeout=pace.stalled_after,
            sep="\n",
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the stream ends or the client goes."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            logger.info("a reader stalled", extra={"event": "sse.stalled"})
        finally:
            self._on_end()
