"""One TCP connection of the server: HTTP requests first, then perhaps a websocket.

Websocket frames are parsed by `websockets`' sans-I/O parser; frames to send arrive here as finished
bytes, so that a fan-out writes the same bytes to every transport.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import struct
from collections import deque
from typing import Protocol as Interface
from typing import cast

from websockets.frames import OP_BINARY, OP_CLOSE, OP_CONT, OP_TEXT, Frame
from websockets.protocol import OPEN, SERVER, Protocol

from supabase_local.http import HttpConnection, Request, Response
from supabase_local.realtime.flow import PATIENCE_SECONDS
from supabase_local.realtime.hub import Hub
from supabase_local.realtime.limits import Limits
from supabase_local.realtime.serializer import websocket_frame
from supabase_local.realtime.session import Session

logger = logging.getLogger(__name__)
# the parser logs through its caller; what matters is logged here
_quiet = logging.getLogger("supabase_local.realtime.websocket")
_quiet.setLevel(logging.CRITICAL)

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CLOSE_SECONDS = 2.0
#: Unsent bytes from which a socket slows producers down.
_CONGESTED_BYTES = 1_000_000


class Listener(Interface):
    """What a connection asks of the server that accepted it."""

    limits: Limits
    hub: Hub

    async def respond(self, request: Request) -> Response:
        """Answer an ordinary request."""

    async def open_socket(self, connection: Connection, request: Request) -> Response | None:
        """Upgrade, or say why not."""


class Connection(HttpConnection):
    """The server's side of one TCP connection."""

    def __init__(self, server: Listener) -> None:
        super().__init__(self._handle, max_body=server.limits.frame_bytes, tasks=server.hub.tasks)
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._websocket: Protocol | None = None
        self._session: Session | None = None
        self._fragments: list[bytes] = []
        self._fragment_opcode = OP_TEXT
        self._inbox: deque[str | bytes] = deque()
        self._arrived = asyncio.Event()
        self._paused = False
        self._congested = False
        self.patience = PATIENCE_SECONDS
        self._last_seen = self._loop.time()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # ------------------------------------------------------------------------- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        limit = self._server.limits.outbound_buffer_bytes
        self._transport.set_write_buffer_limits(high=min(_CONGESTED_BYTES, limit // 2))
        self._timers["idle"] = self._loop.call_later(
            self._server.limits.idle_seconds, self._check_idle
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        super().connection_lost(exc)
        for timer in self._timers.values():
            timer.cancel()
        self._arrived.set()
        self._server.hub.flow.eased(self)
        if self._session is not None:
            self._session.end()
            self._server.hub.session_ended(self._session)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._last_seen = self._loop.time()
        if self._websocket is not None:
            self._feed(data)
        else:
            super().data_received(data)

    def pause_writing(self) -> None:
        """Called by asyncio when much is unsent."""
        self._congested = True
        self._server.hub.flow.congested(self)

    def resume_writing(self) -> None:
        """Called by asyncio when most of it was sent."""
        self._congested = False
        self._server.hub.flow.eased(self)

    def _drop_slow(self) -> None:
        logger.warning(
            "slow consumer dropped",
            extra={
                "event": "realtime.slow_consumer",
                "unsent_bytes": self._transport.get_write_buffer_size(),
            },
        )
        self._closing = True
        self._inbox.clear()
        self._transport.abort()

    def _check_idle(self) -> None:
        idle = self._loop.time() - self._last_seen
        left = self._server.limits.idle_seconds - idle
        if left <= 0:
            if self._websocket is not None:
                self.close(1000, "")
            elif not self._busy:
                self._transport.close()
            left = self._server.limits.idle_seconds
        if not self._closing:
            self._timers["idle"] = self._loop.call_later(left, self._check_idle)

    def _check_channels(self) -> None:
        if self._session is not None and not self._session.channels:
            self._transport.abort()
            return
        seconds = self._server.limits.no_channel_seconds
        self._timers["channels"] = self._loop.call_later(seconds, self._check_channels)

    # ------------------------------------------------------------------------- websocket

    async def _handle(self, request: Request) -> Response | None:
        upgrades = request.header("upgrade").lower() == "websocket" and request.method == "GET"
        if upgrades:
            return await self._server.open_socket(self, request)
        return await self._server.respond(request)

    def upgrade(self, request: Request, session: Session) -> None:
        """Answer 101 and let `session` handle what comes."""
        digest = hashlib.sha1(request.header("sec-websocket-key").encode() + _GUID).digest()
        accept = base64.b64encode(digest).decode()
        self._transport.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
        )
        self._websocket = Protocol(
            SERVER, state=OPEN, max_size=self._server.limits.frame_bytes, logger=_quiet
        )
        self._session = session
        seconds = self._server.limits.no_channel_seconds
        self._timers["channels"] = self._loop.call_later(seconds, self._check_channels)
        self._server.hub.spawn(self._consume(session))
        early, _ = self._http.trailing_data
        if early:
            self._feed(early)

    def send(self, frame: bytes) -> None:
        """Write a finished frame; a client too slow for its buffer is dropped."""
        if self._closing:
            return
        self._transport.write(frame)
        if self._congested:
            unsent = self._transport.get_write_buffer_size()
            if unsent > self._server.limits.outbound_buffer_bytes:
                self._drop_slow()

    def close(self, code: int, reason: str) -> None:
        """Send a close frame and hang up, at once if the client does not answer it."""
        if self._closing:
            return
        payload = struct.pack("!H", code) + reason.encode()[:120]
        self.send(websocket_frame(OP_CLOSE, payload))
        self._wind_up()

    def _wind_up(self) -> None:
        # keep reading for a while: hanging up on unread data would destroy the close frame
        self._closing = True
        self._arrived.set()
        self._timers["close"] = self._loop.call_later(_CLOSE_SECONDS, self._transport.abort)
        if self._session is not None:
            self._session.end()

    def _feed(self, data: bytes) -> None:
        websocket = self._websocket
        if websocket is None:
            return
        websocket.receive_data(data)
        for event in websocket.events_received():
            self._on_frame(cast(Frame, event))
        out = [chunk for chunk in websocket.data_to_send() if chunk]
        if self._closing:
            if websocket.close_rcvd is not None:
                self._transport.close()
            return
        if out and not self._transport.is_closing():
            # pongs, the answer to a close, or the close of a protocol error
            self._transport.write(b"".join(out))
        if websocket.close_expected():
            self._wind_up()
            if websocket.close_rcvd is not None:
                self._transport.close()

    def _on_frame(self, frame: Frame) -> None:
        if self._closing or frame.opcode not in (OP_TEXT, OP_BINARY, OP_CONT):
            return
        data = bytes(frame.data)
        if frame.opcode is not OP_CONT:
            self._fragment_opcode = frame.opcode
            if frame.fin:
                self._enqueue(data)
                return
        self._fragments.append(data)
        if frame.fin:
            whole = b"".join(self._fragments)
            self._fragments.clear()
            self._enqueue(whole)

    def _enqueue(self, data: bytes) -> None:
        if self._fragment_opcode is OP_BINARY:
            self._inbox.append(data)
        else:
            try:
                self._inbox.append(data.decode())
            except UnicodeDecodeError:
                self.close(1007, "")
                return
        self._arrived.set()
        if len(self._inbox) >= self._server.limits.inbound_queue and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    async def _consume(self, session: Session) -> None:
        while not self._closing:
            if not self._inbox:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            data = self._inbox.popleft()
            if self._paused and len(self._inbox) <= self._server.limits.inbound_queue // 2:
                self._paused = False
                if not self._transport.is_closing():
                    self._transport.resume_reading()
            await session.handle(data)
            await self._server.hub.flow.brake()
