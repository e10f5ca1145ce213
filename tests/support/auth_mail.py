"""Supabase Auth's `/invite` and `/otp` in its own format, before a project without them."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx


@dataclass
class Auth:
    """Auth's `/invite` with one answer, and `/otp`; every other path is the stack's behind it."""

    behind: str = ""
    status: int = 200
    body: dict[str, Any] = field(default_factory=lambda: {"id": str(uuid.uuid4())})
    asked: list[tuple[dict[str, Any], dict[str, list[str]], dict[str, str]]] = field(
        default_factory=list
    )
    url: str = ""


@contextmanager
def serving(auth: Auth) -> Iterator[Auth]:
    """Answer at `auth.url` for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            address = urlsplit(self.path)
            if address.path in ("/auth/v1/invite", "/auth/v1/otp"):
                headers = {name.lower(): value for name, value in self.headers.items()}
                auth.asked.append((json.loads(body), parse_qs(address.query), headers))
                is_invite = address.path.endswith("/invite")
                status, answer = (auth.status, auth.body) if is_invite else (200, {})
                said = json.dumps(answer).encode()
            else:
                kept = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                there = httpx.post(auth.behind + self.path, content=body, headers=kept)
                status, said = there.status_code, there.content
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    auth.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield auth
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
