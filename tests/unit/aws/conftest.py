"""A service of AWS with prepared responses on a free port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.message import Message

import pytest

from minutehand.config import Settings
from tests.support.http_server import http_server


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set keys that sign, for no account."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def settings() -> Settings:
    return Settings(
        supabase_url="https://project.example.test",
        supabase_publishable_key="sb_publishable_test",
        aws_region="eu-central-1",
        worker_function_name="minutehand-test-worker",
    )


class Service:
    """An endpoint of AWS that stores requests and returns first `left`, then always `answer`."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, Message, bytes]] = []
        self.left: list[tuple[int, bytes]] = []
        self.answer: tuple[int, bytes] = (202, b"")
        #: While `gate` is not set, no response is sent.
        self.gate, self.arrived = threading.Event(), threading.Event()
        self.gate.set()

    def respond(
        self, path: str, headers: Message, body: bytes
    ) -> tuple[int, bytes, dict[str, str]]:
        """Store a request and return the next response."""
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
