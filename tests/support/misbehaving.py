"""The base class of a local server of a vendor's API that can fail on request."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email import message_from_string
from typing import Any, NoReturn, Self

from minutehand.tasks import end_tasks


@dataclass(frozen=True)
class Fault:
    """A faulty response to a request. `cut` ends the response in the middle of its body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class MisbehavingServer:
    """A server of a vendor's API. A subclass's method `answer` decides the response."""

    def __init__(self) -> None:
        self._open: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await end_tasks(self._open)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Each subclass writes its response to a request here.

        The server closes the connection afterwards.
        """
        raise NotImplementedError

    async def hang(self) -> NoReturn:
        await asyncio.Future[NoReturn]()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            await self.answer(await _read(reader), writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client may close the connection
        finally:
            writer.close()


def write(
    writer: asyncio.StreamWriter,
    status: int,
    answer: Any,
    headers: Mapping[str, str] | None = None,
    *,
    cut: bool = False,
) -> None:
    """Write a response: bytes unchanged, and other values as JSON.

    With `cut`, write half of the body.
    """
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    headers = {"content-type": "application/json", **(headers or {})}
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(
        f"HTTP/1.1 {status} X\r\n{more}"
        f"content-length: {len(raw)}\r\nconnection: close\r\n\r\n".encode()
        + (raw[: len(raw) // 2] if cut else raw)
    )


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, _, fields = head.partition("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, value in message_from_string(fields).items()}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, target, headers, body)
