"""One websocket to Realtime over the official library, and what a message of the engine carries.

Private topics are joined, each with a token of its own, and left. A broken socket ends `serve`;
when to come back is the caller's to say.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from minutehand.tasks import end_tasks

if TYPE_CHECKING:
    from realtime import AsyncRealtimeChannel, AsyncRealtimeClient

# what it calls errors is said by the callers, who know whether one matters
logging.getLogger("realtime").setLevel(logging.CRITICAL)

#: What Realtime says to a join with `replication_ready` once the database's messages arrive: it
#: answers the join before that, and what is committed in between is lost.
READY: Final = "Replication connection established"
#: It gives up after 60 s; one that has said neither by then is from before 2026 and never will.
READY_SECONDS: Final = 65.0
#: What `follow_topic` is passed: messages may group events that differ in their job alone.
MESSAGE_VERSION: Final = 2
#: Between two looks whether the socket is still open.
_LOOK_SECONDS: Final = 0.5


def events_of_message(payload: object) -> list[dict[str, Any]]:
    """The events of one message: several in order, or the one that it is itself.

    What is neither becomes one event without a number, which makes readers read the log.
    """
    match payload:
        case {"groups": [_, *_] as groups}:
            return [event for group in groups for event in _events_of_group(group)]
        case {"events": [_, *_] as several}:
            return [event if isinstance(event, dict) else {} for event in several]
        case Mapping():
            return [dict(payload)]
        case _:
            return [{}]


def _events_of_group(group: object) -> list[dict[str, Any]]:
    """One event for each job of a group, whose numbers are one each or one for all."""
    match group:
        case {"job_ids": [_, *_] as jobs, "seqs": [_, *_] as seqs, **rest}:
            alike = {str(name): value for name, value in rest.items()}
            numbers = seqs * len(jobs) if len(seqs) == 1 else seqs
            if len(numbers) == len(jobs):
                pairs = zip(jobs, numbers, strict=True)
                return [{"job_id": job, "seq": seq, **alike} for job, seq in pairs]
    return [{}]


class RealtimeLost(Exception):
    """The socket could not be opened, or broke; the text says why."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{type(error).__name__} {error}".strip())


@dataclass(frozen=True, slots=True)
class Heard:
    """What Realtime said about a topic.

    `ready`: from now on messages arrive; older servers never say so. `closed`: the topic was joined
    and is no more.
    """

    kind: Literal["joined", "refused", "ready", "message", "closed"]
    #: Of a message its content, of `refused` and `closed` the reason.
    payload: Any = None

    @property
    def size(self) -> int:
        """Characters of the content."""
        return len(json.dumps(self.payload))


class RealtimeSocket:
    """Open inside `async with`; a half-open socket is noticed after 40 s.

    Args:
        url: Realtime's address, `…/realtime/v1`.
        key: The project's publishable key.
        heard: Called with a topic's name and what was said.
        open_seconds: Longest wait for the connection, and for the answer to a join.
    """

    def __init__(
        self, url: str, key: str, heard: Callable[[str, Heard], None], *, open_seconds: float = 10.0
    ) -> None:
        self._url, self._key = url, key
        self._open_seconds = open_seconds
        self._heard = heard
        self._client: AsyncRealtimeClient | None = None
        self._topics: dict[str, AsyncRealtimeChannel] = {}
        self._joined: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            RealtimeLost: It does not answer.
        """
        # here and not at the top: only a host that streams needs them
        from realtime import AsyncRealtimeClient
        from websockets.exceptions import WebSocketException

        seconds = math.ceil(self._open_seconds)
        client = AsyncRealtimeClient(self._url, self._key, auto_reconnect=False, timeout=seconds)
        try:
            await client.connect()
        except (OSError, TimeoutError, WebSocketException) as error:
            raise RealtimeLost(error) from error
        self._client = client
        return self

    async def __aexit__(self, *_: object) -> None:
        self._topics.clear()
        await end_tasks(self._tasks)
        if self._client is not None:
            for channel in self._client.channels.values():
                channel.rejoin_timer.reset()
                channel.join_push.destroy()
            await self._client.close()

    async def serve(self) -> None:
        """Wait until the socket breaks.

        Raises:
            RealtimeLost: It always ends so.
        """
        while self._client is not None and self._client.is_connected:  # noqa: ASYNC110 - it has none
            await asyncio.sleep(_LOOK_SECONDS)
        raise RealtimeLost(ConnectionResetError("Realtime closed the socket"))

    def join(self, topic: str, token: str | None) -> None:
        """Join a private topic; without a token the socket's key decides."""
        assert self._client is not None
        channel = self._client.channel(
            topic,
            {
                "config": {
                    "private": True,
                    "broadcast": {"ack": False, "self": False, "replication_ready": True},
                    "presence": {"enabled": False, "key": ""},
                }
            },
        )
        self._topics[topic] = channel
        channel.on_broadcast(
            "*", lambda message: self._say(topic, Heard("message", message["payload"]))
        )
        channel.on_system(
            lambda said: self._say(topic, Heard("ready")) if said.message == READY else None
        )
        self._spawn(self._subscribe(topic, channel, token))

    async def _subscribe(
        self, topic: str, channel: AsyncRealtimeChannel, token: str | None
    ) -> None:
        def hear(state: str, error: Exception | None) -> None:
            if state == "SUBSCRIBED":
                self._joined.add(topic)
                self._say(topic, Heard("joined"))
            elif topic in self._topics:
                kind: Literal["closed", "refused"] = (
                    "closed" if topic in self._joined else "refused"
                )
                reason = str(error) if error else "the join is not answered"
                self._say(topic, Heard(kind, reason))
                # joined again by its callers, with a token of their choice
                self.leave(topic)

        assert self._client is not None
        self._client.access_token = token
        await channel.subscribe(hear)

    def renew(self, topic: str, token: str) -> None:
        """Give a joined topic a token that lives longer."""
        if (channel := self._topics.get(topic)) is not None:
            self._spawn(channel.push("access_token", {"access_token": token}))

    def leave(self, topic: str) -> None:
        """Hear no more of a topic."""
        channel = self._topics.pop(topic, None)
        self._joined.discard(topic)
        if channel is not None and self._client is not None and self._client.is_connected:
            self._spawn(self._client.remove_channel(channel))

    def _say(self, topic: str, heard: Heard) -> None:
        if topic in self._topics:
            self._heard(topic, heard)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
