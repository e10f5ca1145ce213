"""Fixtures: a local HTTP server that acts as an AWS service and returns prepared responses."""

import threading
from collections.abc import Iterator
from email.message import Message

import pytest

from tests.support.http_server import http_server


class Service:
    """An AWS service that stores requests.

    It returns the responses in `left`, and then `answer`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, Message, bytes]] = []
        self.left: list[tuple[int, bytes]] = []
        self.answer: tuple[int, bytes] = (202, b"")
        #: The server sends no response while `gate` is not set.
        self.gate, self.arrived = threading.Event(), threading.Event()
        self.gate.set()

    def respond(
        self, path: str, headers: Message, body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """Store the request and return the next response."""
        self.asked.append((path, headers, body))
        self.arrived.set()
        self.gate.wait(60)
        return (*(self.left.pop(0) if self.left else self.answer), {})


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    with http_server(made.respond) as made.url:
        yield made
        made.gate.set()
