"""One websocket to Realtime: private topics joined and left, and what is said on them.

The protocol's first version, in JSON objects. A broken socket ends `serve`; when to come back is
the caller's to say.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlencode

from minutehand.queue.broadcasts import READY
from minutehand.queue.foreign import is_local
from minutehand.tasks import first_of

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

#: Realtime ends a socket that was silent for a minute.
HEARTBEAT_SECONDS: Final = 25.0
_GOODBYE_SECONDS: Final = 1.0


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

    kind: Literal["joined", "refused", "ready", "message", "error", "closed"]
    #: Of a message its content, of `refused` and `error` the reason.
    payload: Any = None
    #: Characters of the frame.
    size: int = 0


class RealtimeSocket:
    """Open inside `async with`; a half-open socket is noticed after 40 s.

    Args:
        url: Realtime's address, `…/realtime/v1`.
        key: The project's publishable key.
        heard: Called with a topic's name and what was said.
        open_seconds: Longest wait for the connection.
    """

    def __init__(
        self, url: str, key: str, heard: Callable[[str, Heard], None], *, open_seconds: float = 10.0
    ) -> None:
        query = urlencode({"apikey": key, "vsn": "1.0.0"})
        self._url = f"ws{url.removeprefix('http').removeprefix('ws')}/websocket?{query}"
        # a proxy of the environment is meant for the world outside
        self._proxy: Literal[True] | None = None if is_local(url) else True
        self._heard = heard
        self._open_seconds = open_seconds
        self._refs = map(str, itertools.count(1))
        self._joins: dict[str, str] = {}
        self._outbox: asyncio.Queue[str] = asyncio.Queue()
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            RealtimeLost: It does not answer.
        """
        # here and not at the top: only a host that streams needs it
        from websockets.asyncio.client import connect
        from websockets.exceptions import WebSocketException

        try:
            self._socket = await connect(
                self._url,
                proxy=self._proxy,
                open_timeout=self._open_seconds,
                close_timeout=_GOODBYE_SECONDS,
                max_size=2**22,
            )
        except (OSError, TimeoutError, WebSocketException) as error:
            raise RealtimeLost(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def serve(self) -> None:
        """Send and hear until the socket breaks.

        Raises:
            RealtimeLost: It always ends so.
        """
        from websockets.exceptions import WebSocketException

        assert self._socket is not None
        try:
            await first_of(self._read(self._socket), self._write(self._socket), self._beat())
        except (OSError, ValueError, WebSocketException) as error:
            raise RealtimeLost(error) from error

    def join(self, topic: str, token: str | None) -> None:
        """Join a private topic; without a token the socket's key decides."""
        config = {
            "private": True,
            "broadcast": {"ack": False, "self": False, "replication_ready": True},
            "presence": {"enabled": False, "key": ""},
            "postgres_changes": [],
        }
        with_token = {} if token is None else {"access_token": token}
        self._joins[topic] = self._push(
            f"realtime:{topic}", "phx_join", {"config": config, **with_token}
        )

    def renew(self, topic: str, token: str) -> None:
        """Give a joined topic a token that lives longer."""
        self._push(f"realtime:{topic}", "access_token", {"access_token": token})

    def leave(self, topic: str) -> None:
        """Hear no more of a topic."""
        if self._joins.pop(topic, None) is not None:
            self._push(f"realtime:{topic}", "phx_leave", {})

    def _push(self, topic: str, event: str, payload: dict[str, Any]) -> str:
        ref = next(self._refs)
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref, "join_ref": None}
        self._outbox.put_nowait(json.dumps(frame))
        return ref

    async def _write(self, socket: ClientConnection) -> None:
        while True:
            await socket.send(await self._outbox.get())

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            self._push("phoenix", "heartbeat", {})

    async def _read(self, socket: ClientConnection) -> None:
        async for text in socket:
            frame = json.loads(text)
            topic = str(frame.get("topic", "")).removeprefix("realtime:")
            if topic in self._joins:
                self._hear(topic, frame, len(text))
        # ending the iteration without an error is a close in good order: also a loss
        raise ConnectionResetError("Realtime closed the socket")

    def _hear(self, topic: str, frame: dict[str, Any], size: int) -> None:
        payload, ref, join = frame.get("payload") or {}, frame.get("ref"), self._joins[topic]
        match frame.get("event"):
            case "broadcast":
                self._heard(topic, Heard("message", payload.get("payload"), size))
            case "system" if payload.get("message") == READY:
                self._heard(topic, Heard("ready"))
            case "system" if payload.get("status") == "error":
                self._heard(topic, Heard("error", str(payload.get("message"))))
            case "phx_reply" if ref == join:
                if payload.get("status") == "ok":
                    self._heard(topic, Heard("joined"))
                else:
                    del self._joins[topic]
                    self._heard(topic, Heard("refused", str(payload.get("response"))))
            case "phx_close" | "phx_error" if ref in {join, None}:
                del self._joins[topic]
                self._heard(topic, Heard("closed"))
