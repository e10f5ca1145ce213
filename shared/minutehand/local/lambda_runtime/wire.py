"""A small HTTP/1.1 server on asyncio and h11: whole bodies in, whole bodies out, keep-alive.

What a request means is left to the caller; nothing here knows Lambda.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import h11

from minutehand.tasks import end_tasks

LOOPBACK = "127.0.0.1"
CHUNK = 64 * 1024


@dataclass(frozen=True)
class Request:
    """What a client sent; header names are lower-case, in the order they came."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    peer: str = LOOPBACK

    @property
    def path(self) -> str:
        """The path as sent, percent-encoding kept."""
        return urlsplit(self.target).path

    @property
    def query(self) -> str:
        """The query string without its question mark."""
        return urlsplit(self.target).query

    def header(self, name: str, default: str = "") -> str:
        """The first value of a header."""
        return next((value for key, value in self.headers if key == name), default)


@dataclass(frozen=True)
class Response:
    """What is sent back."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = field(default=())

    @classmethod
    def of_json(cls, status: int, body: Any, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """A JSON response."""
        encoded = json.dumps(body).encode()
        return cls(status, encoded, (("content-type", "application/json"), *headers))


Answer = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Listens on loopback and answers each request by one coroutine."""

    def __init__(self, answer: Answer, *, max_body: int = 16 * 1024 * 1024) -> None:
        self._answer = answer
        self._max_body = max_body
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self, port: int = 0) -> int:
        """Listen; 0 takes any free port. Returns the port."""
        self._server = await asyncio.start_server(self._connected, LOOPBACK, port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        """Close the listener and every open connection."""
        if self._server is not None:
            self._server.close()
        await end_tasks(self._connections)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (ConnectionError, asyncio.CancelledError, h11.ProtocolError):
            # the client went away, or we are stopping: no one is left to answer
            return
        finally:
            if task is not None:
                self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        peer = (writer.get_extra_info("peername") or (LOOPBACK,))[0]
        while True:
            request = await self._receive(connection, reader, writer, str(peer))
            if request is None:
                return
            response = (
                Response.of_json(413, {"message": "Request Too Long"})
                if len(request.body) > self._max_body
                else await self._answer(request)
            )
            self._send(connection, writer, response, head=request.method == "HEAD")
            await writer.drain()
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _receive(
        self,
        connection: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        peer: str,
    ) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    writer.write(
                        connection.send(h11.InformationalResponse(status_code=100, headers=[]))
                        or b""
                    )
                connection.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                # what is over the limit is read and dropped, so that the client receives the answer
                if len(body) <= self._max_body:
                    body.extend(event.data)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                headers = tuple(
                    (name.decode("latin-1").lower(), value.decode("latin-1"))
                    for name, value in head.headers
                )
                return Request(
                    head.method.decode(), head.target.decode("latin-1"), headers, bytes(body), peer
                )
            else:
                return None

    @staticmethod
    def _send(
        connection: h11.Connection, writer: asyncio.StreamWriter, response: Response, *, head: bool
    ) -> None:
        headers = [
            (name, value)
            for name, value in response.headers
            if name.lower() not in {"content-length", "transfer-encoding", "connection"}
        ]
        headers.append(("content-length", str(len(response.body))))
        start = h11.Response(status_code=response.status, headers=headers)
        parts = [connection.send(start)]
        if not head and response.body and response.status not in {204, 304}:
            parts.append(connection.send(h11.Data(data=response.body)))
        parts.append(connection.send(h11.EndOfMessage()))
        writer.write(b"".join(part for part in parts if part))
