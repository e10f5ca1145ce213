"""One TCP connection: HTTP requests first, then perhaps a websocket.

HTTP is parsed by h11 and websocket frames by `websockets`' sans-I/O parser; frames to send arrive
here as finished bytes, so that a fan-out writes the same bytes to every transport.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import http
import logging
import struct
from collections import deque
from typing import Protocol as Interface
from typing import cast
from urllib.parse import parse_qs, urlsplit

import h11
from websockets.frames import OP_BINARY, OP_CLOSE, OP_CONT, OP_TEXT, Frame
from websockets.protocol import OPEN, SERVER, Protocol

from minutehand.local.realtime.flow import PATIENCE_SECONDS
from minutehand.local.realtime.hub import Hub
from minutehand.local.realtime.limits import Limits
from minutehand.local.realtime.serializer import websocket_frame
from minutehand.local.realtime.session import Session

logger = logging.getLogger(__name__)
# the parser logs through its caller; what matters is logged here
_quiet = logging.getLogger("minutehand.local.realtime.websocket")
_quiet.setLevel(logging.CRITICAL)

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_HEAD = 64 * 1024
_CLOSE_SECONDS = 2.0
#: Unsent bytes from which a socket slows producers down.
_CONGESTED_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request."""

    method: str
    #: Still percent-encoded.
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Listener(Interface):
    """What a connection asks of the server that accepted it."""

    @property
    def limits(self) -> Limits:
        """Sizes and times."""

    @property
    def hub(self) -> Hub:
        """What every session shares."""

    @property
    def connections(self) -> set[Connection]:
        """The open connections, of which each is one."""

    async def respond(self, request: Request) -> Response:
        """Answer an ordinary request."""

    async def open_socket(self, connection: Connection, request: Request) -> Response | None:
        """Upgrade, or say why not."""

    def session_ended(self, session: Session) -> None:
        """A socket is gone."""


class Connection(asyncio.Protocol):
    """The server's side of one TCP connection."""

    def __init__(self, server: Listener) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._transport: asyncio.Transport
        self._request: h11.Request | None = None
        self._body = bytearray()
        self._busy = False
        self._websocket: Protocol | None = None
        self._session: Session | None = None
        self._fragments: list[bytes] = []
        self._fragment_opcode = OP_TEXT
        self._inbox: deque[str | bytes] = deque()
        self._arrived = asyncio.Event()
        self._paused = False
        self._closing = False
        self._congested = False
        self.patience = PATIENCE_SECONDS
        self._last_seen = self._loop.time()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # ------------------------------------------------------------------------- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)
        limit = self._server.limits.outbound_buffer_bytes
        self._transport.set_write_buffer_limits(high=min(_CONGESTED_BYTES, limit // 2))
        self._server.connections.add(self)
        self._timers["idle"] = self._loop.call_later(
            self._server.limits.idle_seconds, self._check_idle
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._closing = True
        self._server.connections.discard(self)
        for timer in self._timers.values():
            timer.cancel()
        self._arrived.set()
        self._server.hub.flow.eased(self)
        if self._session is not None:
            self._session.end()
            self._server.session_ended(self._session)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._last_seen = self._loop.time()
        if self._websocket is not None:
            self._feed(data)
            return
        try:
            self._http.receive_data(data)
            self._advance_http()
        except h11.RemoteProtocolError as error:
            self._refuse_http(error.error_status_hint)

    def eof_received(self) -> bool:
        """Called by asyncio; a half-closed peer is gone for us."""
        return False

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

    # ------------------------------------------------------------------------------ HTTP

    def _advance_http(self) -> None:
        while not self._busy and not self._closing:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Request):
                self._request = event
                self._body.clear()
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    self._transport.write(self._http.send(go_on) or b"")
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._server.limits.frame_bytes:
                    self._refuse_http(413)
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._busy = True
                self._server.hub.spawn(self._respond(_request_of(self._request, bytes(self._body))))
            elif isinstance(event, h11.ConnectionClosed):
                self._transport.close()
                return

    def _refuse_http(self, status: int) -> None:
        self._closing = True
        self._transport.write(
            f"HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
        )
        self._transport.close()

    async def _respond(self, request: Request) -> None:
        if request.headers.get("upgrade", "").lower() == "websocket" and request.method == "GET":
            response = await self._server.open_socket(self, request)
        else:
            response = await self._server.respond(request)
        if response is None or self._closing:
            return
        headers = [
            ("content-length", str(len(response.body))),
            *response.headers,
        ]
        if response.body and not any(name == "content-type" for name, _ in headers):
            headers.append(("content-type", "application/json; charset=utf-8"))
        head = h11.Response(
            status_code=response.status,
            headers=headers,
            reason=http.HTTPStatus(response.status).phrase.encode(),
        )
        body = response.body if request.method != "HEAD" else b""
        self._transport.write(
            (self._http.send(head) or b"")
            + (self._http.send(h11.Data(data=body)) or b"")
            + (self._http.send(h11.EndOfMessage()) or b"")
        )
        self._busy = False
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return
        self._http.start_next_cycle()
        try:
            self._advance_http()
        except h11.RemoteProtocolError as error:
            self._refuse_http(error.error_status_hint)

    # ------------------------------------------------------------------------- websocket

    def upgrade(self, request: Request, session: Session) -> None:
        """Answer 101 and let `session` handle what comes."""
        digest = hashlib.sha1(request.headers["sec-websocket-key"].encode() + _GUID).digest()
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


def _request_of(event: h11.Request, body: bytes) -> Request:
    parts = urlsplit(event.target.decode("ascii", "replace"))
    return Request(
        method=event.method.decode("ascii"),
        path=parts.path,
        query={name: values[-1] for name, values in parse_qs(parts.query).items()},
        headers={
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers
        },
        body=body,
    )
