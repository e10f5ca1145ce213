"""HTTP/1.1 on asyncio and h11 for the servers here: whole bodies in, whole bodies out, keep-alive.

What a request means is left to the caller.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit
from weakref import WeakSet

import h11
from starlette.types import ASGIApp, Message

from minutehand.tasks import end_tasks

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_MAX_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent; header names are lower-case, in the order they came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    peer: str = LOOPBACK

    @property
    def path(self) -> str:
        """The path as sent, percent-encoding kept."""
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        """The query string without its question mark."""
        return urlsplit(self.target).query

    @property
    def parameters(self) -> dict[str, str]:
        """The query's parameters; of one that is given twice, the last."""
        return {name: values[-1] for name, values in parse_qs(self.query).items()}

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), default)


@dataclass(frozen=True, slots=True)
class Response:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_json(cls, status: int, body: Any, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """A JSON response."""
        encoded = json.dumps(body).encode()
        return cls(status, encoded, (("content-type", "application/json"), *headers))


#: None when it has taken the connection over.
Answer = Callable[[Request], Awaitable[Response | None]]


class HttpConnection(asyncio.Protocol):
    """The server's side of one TCP connection; answers its requests one after the other.

    Args:
        max_body: More bytes than that are read, dropped and answered by 413.
        tasks: Holds the answers under way.
    """

    def __init__(self, answer: Answer, *, max_body: int, tasks: set[asyncio.Task[Any]]) -> None:
        self._answer = answer
        self._max_body = max_body
        self._tasks = tasks
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        self._transport: asyncio.Transport
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._busy = False
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._closing = True

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._http.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """Called by asyncio; a half-closed peer is gone for us."""
        return False

    def abort(self) -> None:
        """Hang up."""
        self._transport.abort()

    def _advance(self) -> None:
        try:
            while not self._busy and not self._closing:
                event = self._http.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return
                self._on_event(event)
        except h11.RemoteProtocolError as error:
            self._refuse(error.error_status_hint)

    def _on_event(self, event: Any) -> None:
        if isinstance(event, h11.Request):
            self._head = event
            self._body.clear()
            if self._http.they_are_waiting_for_100_continue:
                proceed = h11.InformationalResponse(status_code=100, headers=[])
                self._transport.write(self._http.send(proceed) or b"")
        elif isinstance(event, h11.Data):
            # what is over the limit is read and dropped, so that the client receives the answer
            if len(self._body) <= self._max_body:
                self._body += event.data
        elif isinstance(event, h11.EndOfMessage):
            self._busy = True
            task = asyncio.create_task(self._respond())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(event, h11.ConnectionClosed):
            self._closing = True
            self._transport.close()

    def _refuse(self, status: int) -> None:
        self._closing = True
        head = f"HTTP/1.1 {status} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        self._transport.write(head.encode())
        self._transport.close()

    def _request(self) -> Request:
        assert self._head is not None
        peer = (self._transport.get_extra_info("peername") or (LOOPBACK,))[0]
        return Request(
            self._head.method.decode(),
            self._head.target.decode("latin-1"),
            tuple(
                (k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in self._head.headers
            ),
            bytes(self._body),
            str(peer),
        )

    async def _respond(self) -> None:
        request = self._request()
        response: Response | None = Response.of_json(413, {"message": "Request Too Long"})
        if len(request.body) <= self._max_body:
            try:
                response = await self._answer(request)
            except Exception:
                logger.exception("a request failed", extra={"event": "http.request_failed"})
                response = Response(500)
        if response is None or self._closing:
            return
        self._send(response, head=request.method == "HEAD")
        self._busy = False
        if self._http.our_state is h11.MUST_CLOSE:
            self._transport.close()
            return
        self._http.start_next_cycle()
        self._advance()

    def _send(self, response: Response, *, head: bool) -> None:
        headers = [
            (name, value)
            for name, value in response.headers
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}
        ]
        headers.append(("content-length", str(len(response.body))))
        start = h11.Response(status_code=response.status, headers=headers)
        parts = [self._http.send(start)]
        if not head and response.body and response.status not in {204, 304}:
            parts.append(self._http.send(h11.Data(data=response.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(part for part in parts if part))


class HttpServer:
    """Listens on loopback and answers each request by one coroutine."""

    def __init__(self, answer: Answer, *, max_body: int = 16 * 1024 * 1024) -> None:
        self._answer = answer
        self._max_body = max_body
        self._server: asyncio.Server | None = None
        self._connections: WeakSet[HttpConnection] = WeakSet()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.port = 0

    async def start(self, port: int = 0) -> int:
        """Listen; 0 takes any free port. Returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, LOOPBACK, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    def _connect(self) -> HttpConnection:
        made = HttpConnection(self._answer, max_body=self._max_body, tasks=self._tasks)
        self._connections.add(made)
        return made

    async def stop(self) -> None:
        """Close the listener and every open connection."""
        if self._server is not None:
            self._server.close()
        await end_tasks(self._tasks)
        for connection in list(self._connections):
            connection.abort()


async def ask(app: ASGIApp, request: Request) -> Response:
    """What an ASGI app answers to one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},  # no one waits for a disconnect
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in request.headers],
        "client": (request.peer, 0),
    }
    await app(scope, receive, send)
    start, *parts = sent
    headers = ((k.decode("latin-1"), v.decode("latin-1")) for k, v in start["headers"])
    body = b"".join(part.get("body", b"") for part in parts)
    return Response(start["status"], body, tuple(headers))
