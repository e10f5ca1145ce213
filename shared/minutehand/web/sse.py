"""Streams server-sent events from the stored event log. `Last-Event-ID` resumes a stream.

Each stream reads the log from its cursor with the token of its reader, so that row level security
decides which events the reader gets.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Request, Response
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.types import Receive, Scope, Send

from minutehand.queue.client import UserQueue
from minutehand.queue.credentials import redact
from minutehand.queue.data_api import retry_rate_limited
from minutehand.queue.errors import QueueError, QueueUnavailable, RateLimited, TokenRefused
from minutehand.queue.models import ENDED, FeedPage, JobEvent
from minutehand.tasks import first_of
from minutehand.web.caller import Caller, rate_limit_subject
from minutehand.web.errors import ApiError, invalid_argument
from minutehand.web.listener import EventListener
from minutehand.web.services import Services, StreamTiming

logger = logging.getLogger(__name__)
T = TypeVar("T")

MEDIA_TYPE = "text/event-stream"
#: Maximum events of one read. A client that is far behind needs several reads of the log.
READ_LIMIT = 500
#: Maximum seconds until the first event of an app's buffered response. The `jobs` function allows
#: 20 s.
BUFFERED_SECONDS = 12.0
#: The cursor before the first event.
START_CURSOR = "1:1:"
#: Type of an event with a job's output. An event with output has no `seq` and is not in the job's
#: history.
OUTPUT = "job.output"
_Position = Annotated[int, Field(ge=0, lt=2**31)]
_Positions = dict[str, dict[str, _Position]]
_OUTPUT = TypeAdapter(_Positions)
_OUTPUT_BY_JOB = TypeAdapter(dict[str, _Positions])
#: Maximum characters in a cursor for the positions in output streams.
_MAX_POSITIONS = 6000
_END_EVENTS = frozenset({f"job.{status}" for status in ENDED})


@dataclass(frozen=True)
class SseEvent:
    """One event of a feed.

    Attributes:
        cursor: Cursor with which a reader continues after this event.
        type: Name of the event. EventSource passes an event without a name to `onmessage`.
    """

    cursor: str
    type: str | None
    data: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class JobCursor:
    """A reader's position in the events of a job, and in each output stream of the job."""

    seq: int = 0
    output: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Result of one read of the event log."""

    lines: Sequence[SseEvent] = ()
    #: Reason why the stream ends, or None if the stream continues.
    end: str | None = None
    #: True if the feed should be read again immediately.
    more: bool = False
    #: Cursor of the next read, if this read returned no events.
    cursor: str | None = None
    #: Seconds until the reader's guest session ends, or None.
    session_seconds: float | None = None


class Feed(Protocol):
    """Reads the events of one subject from a cursor.

    `subject` is the topic of the feed, such as `session:<id>`.
    """

    subject: str

    async def read(self) -> Batch:
        """Return a limited number of events since the last read."""
        ...


class JobFeed:
    """Events of one job by `seq`, and the job's output by offset.

    The feed ends when its job ends.
    """

    def __init__(
        self, queue: UserQueue, job_id: str, *, after: JobCursor, session_id: str | None = None
    ) -> None:
        self.subject = f"job:{job_id}"
        self._queue = queue
        self._job_id = job_id
        self._seq = after.seq
        self._output = dict(after.output)
        self._session_id = session_id

    async def read(self) -> Batch:
        """Return the job's output, then the events that existed when the output was read.

        The event that ends the job follows all output. One call of SQL returns the output and the
        last `seq`. Events are read only if there are new events.
        """
        output = await self._queue.call(
            "job_output", job_id=self._job_id, after=self._output, session_id=self._session_id
        )
        is_complete = not any(page["more"] for page in output["streams"])
        has_events = is_complete and output["last_seq"] > self._seq
        events = await self._after(self._seq) if has_events else []
        # all reads have succeeded, so the feed's positions may advance
        lines = []
        for page in output["streams"]:
            self._output[page["stream"]] = {"attempt": page["attempt"], "next": page["next"]}
            lines.append(_output_line(self._job_id, page, self._cursor_after(self._seq)))
        if not is_complete:
            return Batch(lines, more=True)
        visible = [event for event in events if event.seq <= output["last_seq"]]
        lines += [_line(event, self._cursor_after(event.seq)) for event in visible]
        # a page that is not full contains all events up to `last_seq` that are still stored, so
        # continue after `last_seq`
        is_full = len(visible) == READ_LIMIT
        self._seq = visible[-1].seq if is_full else max(self._seq, output["last_seq"])
        more = is_full or len(visible) < len(events)
        end = output["status"] if output["status"] in ENDED and not more else None
        return Batch(lines, end=end, more=more, session_seconds=output.get("session_seconds"))

    def _cursor_after(self, seq: int) -> str:
        """Return the cursor after an event and after all output that was sent."""
        return f"{seq} {_format_cursor(self._output)}" if self._output else str(seq)

    async def _after(self, seq: int) -> list[JobEvent]:
        if self._session_id is None:
            return await self._queue.events_after(self._job_id, seq, limit=READ_LIMIT)
        return await self._queue.guest_events_after(self._session_id, self._job_id, seq)


class HistoryFeed:
    """Events of all jobs of a workspace or session. The feed never ends.

    Because a cursor is a snapshot of the database, each event is sent exactly once, in whatever
    order transactions commit. The events of a job are sent in the order of `seq`.

    Args:
        read_after: Function that reads the page after a cursor with the reader's token.
        after: Cursor at which the feed begins. If `after` is None, the SQL function's
            default applies.
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
        """Return the next page of events."""
        page = await self._read_after(self._cursor)
        self._cursor = page.cursor
        return page

    async def read(self) -> Batch:
        """Return the next page of events.

        The first event is `reset` if the reader may have missed events.
        """
        return self._batch(await self.page())

    def _batch(self, page: FeedPage) -> Batch:
        # the last event gets the cursor of the page, so that skipped rows are not read again
        cursors = [*page.places[:-1], page.cursor] if page.events else []
        lines = [_line(event, cursor) for event, cursor in zip(page.events, cursors, strict=True)]
        if page.reset:
            lines.insert(0, SseEvent(page.cursor, "reset", {"reason": "cursor"}))
        return Batch(lines, more=page.more, cursor=page.cursor)


class SessionFeed(HistoryFeed):
    """Events of a session, and the output of its jobs by offset. The feed never ends.

    The cursor contains the positions in the output of live jobs only, because all output of an
    ended job was sent before the job's last event.

    Args:
        after: Cursor of the last event that the reader received.
    """

    def __init__(self, queue: UserQueue, session_id: str, *, after: str | None) -> None:
        cursor, self._output = _split_cursor(after, _OUTPUT_BY_JOB)
        self._queue = queue
        self._session_id = session_id
        self._before = cursor or START_CURSOR
        # page of events that was read, but is sent only after earlier output
        self._page: FeedPage | None = None
        super().__init__(
            f"session:{session_id}",
            lambda at: queue.session_feed(session_id, at),
            after=cursor or None,
        )

    async def read(self) -> Batch:
        """Return output of jobs, and then the events that existed before this output was read."""
        if (page := self._page) is None:
            page, output = await asyncio.gather(self._next_page(), self._read_output())
            if page.events or page.reset:
                # read the output again, so that a job's output precedes the event of the job's end
                output = await self._read_output()
        else:
            output = await self._read_output()
        output_lines = self._output_lines(output)
        if output["more"]:
            return Batch(output_lines, more=True)
        last: dict[str, int] = {event.job_id: event.seq for event in page.events}
        lines = []
        for line in self._batch(page).lines:
            if line.type in _END_EVENTS and line.data["seq"] == last[line.data["job_id"]]:
                self._output.pop(line.data["job_id"])
            lines.append(replace(line, cursor=self._cursor_after(line.cursor)))
        self._output = {job_id: offsets for job_id, offsets in self._output.items() if offsets}
        self._before, self._page = page.cursor, None
        return Batch(
            [*output_lines, *lines],
            more=page.more,
            cursor=self._cursor_after(page.cursor),
            session_seconds=output.get("session_seconds"),
        )

    async def _next_page(self) -> FeedPage:
        page = self._page = await self.page()
        if page.reset:
            self._before, self._output = page.cursor, {}
        for event in page.events:
            self._output.setdefault(event.job_id, {})
        return page

    async def _read_output(self) -> dict[str, Any]:
        """Read the output of the session's jobs after the positions that were sent."""
        return await self._queue.call(
            "session_output", session_id=self._session_id, after=self._output
        )

    def _output_lines(self, output: dict[str, Any]) -> list[SseEvent]:
        lines = []
        for job in output["jobs"]:
            for page in job["streams"]:
                offsets = self._output.setdefault(job["job_id"], {})
                offsets[page["stream"]] = {"attempt": page["attempt"], "next": page["next"]}
                lines.append(_output_line(job["job_id"], page, self._cursor_after(self._before)))
        return lines

    def _cursor_after(self, cursor: str) -> str:
        """Return a cursor that also contains the positions in the output of jobs."""
        offsets = {job_id: offsets for job_id, offsets in self._output.items() if offsets}
        return f"{cursor} {_format_cursor(offsets)}" if offsets else cursor


def _format_cursor(offsets: Mapping[str, object]) -> str:
    """Serialize the positions in output streams.

    Above the size limit, drop the oldest positions.
    """
    parts = [json.dumps({name: end})[1:-1] for name, end in offsets.items()]
    while sum(map(len, parts)) > _MAX_POSITIONS:
        del parts[0]
    return f"{{{', '.join(parts)}}}"


def _output_line(job_id: str, page: dict[str, Any], cursor: str) -> SseEvent:
    return SseEvent(cursor, OUTPUT, {"job_id": job_id, "type": OUTPUT, "data": page})


def _line(event: JobEvent, cursor: str) -> SseEvent:
    data = event.model_dump(include={"job_id", "seq", "type", "data"})
    return SseEvent(cursor, event.type, {**data, "at": event.created_at})


def parse_job_cursor(last_event_id: str | None, after: int | None) -> JobCursor:
    """Parse the start of a job's stream.

    `Last-Event-ID` may also contain positions in the job's output.
    """
    seq, output = _split_cursor(last_event_id, _OUTPUT)
    return JobCursor(parse_seq_cursor(seq, after), output)


def _split_cursor(text: str | None, adapter: TypeAdapter[T]) -> tuple[str, T]:
    """Split a cursor into the cursor of the events and the positions in output streams."""
    cursor, _, output = (text or "").strip().partition(" ")
    try:
        return cursor, adapter.validate_json(output or "{}")
    except ValidationError:
        raise _unknown_cursor() from None


def _unknown_cursor() -> ApiError:
    text = "is not a valid cursor for this stream"
    return invalid_argument("Last-Event-ID", text, location="header")


def parse_seq_cursor(last_event_id: str | None, after: int | None) -> int:
    """Return the `seq` after which a job's stream begins, from `Last-Event-ID` or `after`."""
    text = (last_event_id or "").strip()
    if not text:
        return after or 0
    if not re.fullmatch("[0-9]{1,18}", text):
        raise _unknown_cursor()
    return int(text)


async def stream_response(
    request: Request,
    services: Services,
    caller: Caller | None,
    feed: Feed,
    *,
    wait: float | None = None,
    is_bare: bool = False,
    is_resumed: bool = False,
) -> Response:
    """Build the response that streams `feed`.

    When the stream is over, its last event `end` contains the reason, which is `completed`,
    `failed`,
        `cancelled`, `gone` (deleted, or no longer visible to the reader), `token_expired` or
        `forbidden`. A stream that EventSource should continue ends without `end`.

    Args:
        wait: Maximum seconds until the first event, if the host buffers responses.
        is_bare: Omit the event `end`, because the feed's last event already shows the end.
        is_resumed: Respond with 204, which stops EventSource, if the feed has no more events.
    """
    until = services.clock.monotonic() + min(
        services.timing.buffered_wait, wait or services.timing.buffered_wait
    )
    reader = f"reads of {rate_limit_subject(request.scope, caller)}"
    # limit a reader's concurrent reads, because all streams share few connections
    reading = partial(services.requests.slot, reader, 2)
    with contextlib.ExitStack() as stack:
        stack.enter_context(services.stream_slot(request, caller))
        if caller is not None and not services.timing.streaming:
            await services.queue_of(caller).call("open_stream", repeatable=False)
        async with reading():
            first = await retry_rate_limited(feed.read, max_seconds=services.timing.read_timeout)
        if is_resumed and first.end is not None and not first.lines:
            return Response(status_code=204)
        changed = stack.enter_context(services.listener.subscribed(feed.subject))
        body = _chunks(
            services, caller, feed, first, changed, reading, until=until, is_bare=is_bare
        )
        return _EventStream(body, services.timing, on_end=stack.pop_all().close)


async def _chunks(
    services: Services,
    caller: Caller | None,
    feed: Feed,
    batch: Batch,
    changed: asyncio.Event,
    reading: Callable[[], contextlib.AbstractAsyncContextManager[None]],
    *,
    until: float,
    is_bare: bool,
) -> AsyncIterator[bytes]:
    clock, timing = services.clock, services.timing
    # a guest's session expires in the database, so that the next read of an expired session fails
    expires_at = caller.expires_at if caller else clock.now() + timedelta(days=31)
    # EventSource stores the id of a message without data, and dispatches no event for the message
    yield _encode(retry=int(timing.retry * 1000), id=None if batch.lines else batch.cursor)
    interval = timing.poll
    while True:
        if batch.lines:
            yield b"".join(
                _encode(line.data, event=line.type, id=line.cursor) for line in batch.lines
            )
        left = (expires_at - clock.now()).total_seconds()
        end = batch.end or ("token_expired" if left <= 0 else None)
        if end is not None:
            if not is_bare:
                yield _encode({"reason": end}, event="end")
            return
        is_complete = not batch.more and (batch.lines or clock.monotonic() >= until)
        if services.closing.is_set() or (is_complete and not timing.streaming):
            return
        if not batch.more:
            if services.listener.is_live:
                interval = timing.max_recheck
            else:
                interval = timing.poll if batch.lines else min(interval * 1.5, timing.max_poll)
            if batch.session_seconds is not None:
                left = min(left, batch.session_seconds)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(interval, max(left, 0.0))):
                    await first_of(changed.wait(), services.closing.wait())
        async with reading():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(services.read_pacer.seconds_left()):
                    await services.closing.wait()
            changed.clear()
            batch = await _read(services.listener, feed, timing.read_timeout)


async def _read(listener: EventListener, feed: Feed, seconds: float) -> Batch:
    """Read the feed.

    If the database is unavailable or lacks a function, return an empty batch, so the stream waits.
    """
    try:
        async with asyncio.timeout(seconds):
            await listener.register(feed.subject)
            return await retry_rate_limited(feed.read, max_seconds=seconds)
    except TokenRefused:
        return Batch(end="token_expired")
    except (QueueError, TimeoutError) as error:
        outages = QueueUnavailable | RateLimited | TimeoutError
        if not (isinstance(error, outages) or error.lacks_object):
            return Batch(end="gone" if error.status == 404 else "forbidden")
        reason = str(error) or type(error).__name__
        extra = {"event": "sse.waiting", "subject": redact(feed.subject), "reason": reason}
        logger.warning("an event stream waits for the database", extra=extra)
        return Batch()


def _encode(data: object = None, **fields: Any) -> bytes:
    text = None if data is None else to_json(data).decode()
    return ServerSentEvent(text, sep="\n", **fields).encode()


class _EventStream(EventSourceResponse):
    """A response that ends when the client disconnects, or when the client accepts no data."""

    def __init__(
        self, chunks: AsyncIterator[bytes], timing: StreamTiming, *, on_end: Callable[[], None]
    ) -> None:
        super().__init__(
            chunks,
            headers={"cache-control": "no-store, no-transform"},
            ping=timing.keep_alive,
            ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
            send_timeout=timing.stall_timeout,
            sep="\n",
        )
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the stream ends or the client disconnects."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            logger.info("a reader stalled", extra={"event": "sse.stalled"})
        finally:
            self._on_end()
