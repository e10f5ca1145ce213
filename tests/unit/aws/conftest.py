"""A service of AWS with prepared responses on a free port."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from minutehand.config import Settings


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


class Service(ThreadingHTTPServer):
    """An endpoint of AWS that stores requests and returns first `left`, then always `answer`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Message, bytes]] = []
        self.left: list[tuple[int, bytes]] = []
        self.answer: tuple[int, bytes] = (202, b"")
        #: While this gate is closed, no response is sent.
        self.gate, self.arrived = threading.Event(), threading.Event()
        self.gate.set()
        super().__init__(("127.0.0.1", 0), _Asked)
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()


class _Asked(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, self.headers, body))
        self.server.arrived.set()
        self.server.gate.wait(60)
        status, answer = self.server.left.pop(0) if self.server.left else self.server.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Write no log."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as made:
        yield made
        made.gate.set()
        made.shutdown()
