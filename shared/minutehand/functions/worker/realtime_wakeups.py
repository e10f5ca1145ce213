"""Wakes a worker that cannot use `LISTEN`, by Realtime messages on a private topic of workers.

The response to a lease request names the topic. If Realtime is unavailable, the worker polls.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

from realtime import AsyncRealtimeClient
from realtime.types import RealtimeSubscribeStates

from minutehand.config import Settings
from minutehand.worker.registry import Registry

logger = logging.getLogger(__name__)
# The library logs each lost connection as an error that contains the topic, which must stay secret.
logging.getLogger("realtime").setLevel(logging.CRITICAL)

#: Seconds before the next attempt to connect. The pause doubles each time, up to the maximum.
RETRY_DELAY_SECONDS = 1.0
MAX_RETRY_DELAY_SECONDS = 60.0
PRIVATE: Any = {"config": {"private": True}}


class RealtimeWakeups:
    """Calls `wake` after each new connection, and when a job of the worker's types is enqueued."""

    def __init__(self, settings: Settings, wake: Callable[[], object]) -> None:
        self._settings = settings
        self._wake = wake
        self._topic: str | None = None
        #: Event that is set if the topic has changed or the connection was lost.
        self._changed = asyncio.Event()
        self._retry_delay = RETRY_DELAY_SECONDS
        #: True if a connection attempt has failed. Only the first failure is logged as a warning.
        self._has_failed = False

    def follow(self, topic: str | None) -> None:
        """Subscribe to the topic that a lease response names, and leave the previous topic."""
        if topic != self._topic:
            self._topic = topic
            self._changed.set()

    async def run(self, registry: Registry) -> None:
        """Keep a connection to Realtime open while the worker has a topic to join."""

        def on_message(message: Any) -> None:
            job_type = message["payload"]["job_type"]
            if job_type is None or job_type in registry:  # None: for all workers
                self._wake()

        while True:
            self._changed.clear()
            if self._topic is None:
                await self._changed.wait()
                continue
            try:
                await self._listen(self._topic, on_message)
            except Exception as error:  # the library may raise any error
                logger.log(
                    logging.DEBUG if self._has_failed else logging.WARNING,
                    "Realtime is unavailable; polling continues",
                    exc_info=error,
                    extra={"event": "realtime.unavailable"},
                )
                self._has_failed = True
            await asyncio.sleep(self._retry_delay * (0.75 + random.random() / 2))
            self._retry_delay = min(MAX_RETRY_DELAY_SECONDS, 2 * self._retry_delay)

    async def _listen(self, topic: str, on_message: Callable[[Any], None]) -> None:
        socket = AsyncRealtimeClient(
            f"{self._settings.supabase_url}/realtime/v1",
            self._settings.supabase_publishable_key,
            auto_reconnect=False,
        )
        channel = socket.channel(topic, PRIVATE)
        channel.on_broadcast("wake", on_message)
        try:
            await channel.subscribe(self._on_state)
            await self._changed.wait()
        finally:
            await socket.close()

    def _on_state(self, state: RealtimeSubscribeStates, error: Exception | None) -> None:
        if state != RealtimeSubscribeStates.SUBSCRIBED:
            self._changed.set()
            return
        self._retry_delay = RETRY_DELAY_SECONDS
        logger.info("Realtime wakes the worker", extra={"event": "realtime.joined"})
        self._wake()  # jobs may have been enqueued before this connection
