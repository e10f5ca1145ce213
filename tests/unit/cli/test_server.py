"""The server's connections: half a request is closed, no more than so many are open."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from minutehand.terminal.server import Server, guarded


async def hello(scope: Any, receive: Any, send: Any) -> None:
    """Answer everything."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})


@contextlib.contextmanager
def serving(*, connections: int, head_seconds: float) -> Iterator[tuple[str, int]]:
    """A server on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        hello,
        log_config=None,
        lifespan="off",
        http=guarded(connections=connections, head_seconds=head_seconds),
    )
    server = Server(config, lambda: None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()


def half_open(address: tuple[str, int]) -> socket.socket:
    """A connection whose request never ends."""
    made = socket.create_connection(address, timeout=60)
    with contextlib.suppress(ConnectionError):  # closed already
        made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    return made


def is_closed(connection: socket.socket) -> bool:
    """Wait until the server has closed it, with a reset where something was sent since."""
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def answered(address: tuple[str, int]) -> socket.socket:
    """A connection with one answer; a head that a busy machine sent too late is sent again."""
    for _ in range(100):
        made = socket.create_connection(address, timeout=60)
        with contextlib.suppress(ConnectionError):
            made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            if said := made.recv(1000):
                assert said.startswith(b"HTTP/1.1 200")
                return made
        made.close()
    raise AssertionError("no whole request is answered")


def test_half_a_request_is_closed_and_a_whole_one_answered() -> None:
    """A script that opens and waits holds nothing; also on a connection that was used before."""
    with serving(connections=100, head_seconds=0.2) as address:
        with half_open(address) as first, half_open(address) as second:
            assert is_closed(first)
            assert is_closed(second)
        with answered(address) as again, contextlib.suppress(ConnectionError):
            again.sendall(b"GET / HTTP/1.1\r\n")
            while again.recv(1000):
                pass
        answered(address).close()


def test_what_is_beyond_the_bound_is_closed_unanswered() -> None:
    """Files of the process are for callers that say something."""
    with serving(connections=3, head_seconds=60) as address:
        held = [half_open(address) for _ in range(3)]
        try:
            with socket.create_connection(address, timeout=60) as beyond:
                assert is_closed(beyond)
        finally:
            for each in held:
                each.close()
