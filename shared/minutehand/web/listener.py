"""Wakes event streams when the database sends a notification about their job or session.

A process keeps one connection to Postgres while it has open streams. Without the connection, event
streams poll the database.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import aclosing, contextmanager, suppress

from minutehand.config import ConfigurationError, Settings
from minutehand.queue.data_api import DataApi
from minutehand.queue.errors import QueueError
from minutehand.queue.functions import WorkerFunctions

logger = logging.getLogger(__name__)

CHANNEL = "minutehand_events"
#: Seconds until a topic is registered again, because the database forgets a topic after a minute.
REGISTER_SECONDS = 30.0
#: Seconds from the first registration of a topic to an additional read of the topic's streams.
SETTLE_SECONDS = 2.0


class EventListener:
    """Receives notifications from the database. While `is_live` is true, streams need not poll."""

    def __init__(self, settings: Settings, api: DataApi) -> None:
        self._url = settings.environ.get("DATABASE_URL", "")
        self._streams: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._registered_until: dict[str, float] = {}
        self.is_live = self._is_listening = False
        self._task: asyncio.Task[None] | None = None
        self._functions: WorkerFunctions | None = None
        if settings.streaming and self._url:
            with suppress(ConfigurationError):
                self._functions = WorkerFunctions(settings, api=api)

    @contextmanager
    def subscribed(self, topic: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set when the streams of a topic such as `job:<id>` should read."""
        event = asyncio.Event()
        self._streams[topic].add(event)
        if self._functions is not None and self._task is None:
            self._task = asyncio.create_task(self._listen(), name="listener")
        elif self._is_listening:
            event.set()  # wake the stream, whose next read registers the topic
        try:
            yield event
        finally:
            self._streams[topic].remove(event)
            if not self._streams[topic]:
                del self._streams[topic]
                self._registered_until.pop(topic, None)
            if self._task is not None and not self._streams:
                self._task.cancel()
                self._task = None
                self.is_live = self._is_listening = False

    async def register(self, topic: str) -> None:
        """Register a topic with the database. A stream calls this method before each read."""
        now = time.monotonic()
        if (
            self._functions is None
            or not self._is_listening
            or now < self._registered_until.get(topic, 0.0)
        ):
            return
        is_new = topic not in self._registered_until
        self._registered_until[topic] = now + REGISTER_SECONDS
        try:
            await self._functions.call("stream_topics", {"p_topics": [topic]})
            self.is_live = True
            if is_new:
                # a transaction that did not see the registration may commit without a notification
                asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._wake, topic)
        except QueueError as error:
            self.is_live = False
            extra = {"event": "sse.polling", "reason": str(error)}
            logger.warning("event streams poll; a topic could not be registered", extra=extra)

    async def _listen(self) -> None:
        # import late: psycopg is optional
        from minutehand.queue.connection_probe import probe_until_up
        from minutehand.queue.direct import notifications

        address = await probe_until_up(self._url)
        if not address.notifications:
            self._functions = None  # from now on streams poll without another check of the address
            extra = {"event": "sse.polling", **address.log_fields}
            logger.warning("event streams poll; DATABASE_URL passes no notifications", extra=extra)
            return
        async with aclosing(notifications(self._url, CHANNEL)) as topics:
            async for topic in topics:
                if topic:
                    self._wake(topic)
                    continue
                self.is_live, self._is_listening = False, topic is not None
                self._registered_until.clear()
                # wake all streams, which read the events committed while there was no connection
                for topic in self._streams:
                    self._wake(topic)

    def _wake(self, topic: str) -> None:
        for event in self._streams.get(topic, ()):
            event.set()
