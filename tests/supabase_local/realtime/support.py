"""Helpers of the Realtime tests: the server as a process, and raw sockets."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import jwt
from websockets.asyncio.client import ClientConnection, connect

from supabase_local.ports import reserve_port
from tests.support.paths import ROOT
from tests.support.patience import responds, until
from tests.support.stacks import TRUTH_URL

Json = dict[str, Any]

#: The environment of the real project (see infra/truth), or empty for the local server.
REAL = os.environ if TRUTH_URL else {}
SECRET = REAL.get("SUPABASE_JWT_SECRET", "super-secret-jwt-token-with-at-least-32-characters-long")
PUBLISHABLE = REAL.get("SUPABASE_PUBLISHABLE_KEY", "sb_publishable_test")
SECRET_KEY = REAL.get("SUPABASE_SECRET_KEY", "sb_secret_test")
ADA = "aaaaaaaa-0000-4000-8000-000000000001"
EVE = "aaaaaaaa-0000-4000-8000-000000000003"
PATIENCE = 60.0
#: Seconds after which a message that must not arrive would have arrived.
QUIET = 0.3


def token(sub: str = ADA, *, seconds: float = 3600, **claims: Any) -> str:
    exp = int(time.time() + seconds)
    body = {"sub": sub, "role": "authenticated", "exp": exp, **claims}
    return jwt.encode({k: v for k, v in body.items() if v is not None}, SECRET, "HS256")


def unique(prefix: str = "room") -> str:
    """Return a unique topic."""
    return f"{prefix}:{uuid.uuid4().hex[:8]}"


class Server:
    """A process of `python -m supabase_local.realtime`, or the real project's server."""

    def __init__(self, url: str) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.http = TRUTH_URL
        if TRUTH_URL:
            return
        port = reserve_port()
        self.http = f"http://127.0.0.1:{port}"
        keys = {"SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE, "SUPABASE_SECRET_KEY": SECRET_KEY}
        given = {"SUPABASE_JWT_SECRET": SECRET, "DATABASE_URL": url, "PORT": str(port)}
        command = [sys.executable, "-m", "supabase_local.realtime"]
        self.process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **keys, **given})
        self.wait_for_health(200)

    def wait_for_health(self, status: int) -> None:
        """Wait until the server's health check returns this status.

        It is 200 while messages stream, else 503.
        """

        def is_seen() -> bool:
            assert self.process is None or self.process.poll() is None, "the server has ended"
            return responds(f"{self.http}/realtime/v1/health", status)

        until(is_seen)

    def websocket_url(self, *, key: str | None, vsn: str = "2.0.0") -> str:
        query = f"apikey={key}&vsn={vsn}" if key else f"vsn={vsn}"
        return f"{self.http.replace('http', 'ws', 1)}/realtime/v1/websocket?{query}"

    def stop(self) -> None:
        """End the process with SIGTERM like a launcher."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)


class Socket:
    """A raw client of the protocol's version 1 or 2, which shows exactly what the server sends."""

    def __init__(self, connection: ClientConnection, version: int) -> None:
        self.connection = connection
        self.version = version
        self.pending: list[Json] = []
        self._refs = itertools.count(1)

    async def send_raw(self, data: str | bytes) -> None:
        await self.connection.send(data)

    async def push(
        self,
        topic: str,
        event: str,
        payload: Any,
        *,
        join_ref: str | None = None,
        ref: str | None = "",
    ) -> str | None:
        ref = str(next(self._refs)) if ref == "" else ref
        if self.version == 2:
            await self.send_raw(json.dumps([join_ref, ref, topic, event, payload]))
        else:
            message = {"topic": topic, "event": event, "payload": payload, "ref": ref}
            await self.send_raw(json.dumps({**message, "join_ref": join_ref}))
        return ref

    async def receive(self, seconds: float = PATIENCE) -> Json:
        """Return the next frame, decoded to the same form for both versions."""
        if self.pending:
            return self.pending.pop(0)
        return decode(await asyncio.wait_for(self.connection.recv(), seconds))

    async def expect(self, event: str, *, topic: str | None = None) -> Json:
        """Return the next frame with this event, and store other frames for later."""
        return await self._first(
            lambda frame: frame["event"] == event and topic in (None, frame["topic"])
        )

    async def reply_to(self, ref: str | None) -> Json:
        """Return the payload of the reply to `ref`."""
        frame = await self._first(lambda one: (one["event"], one["ref"]) == ("phx_reply", ref))
        return frame["payload"]

    async def _first(self, expected: Callable[[Json], bool]) -> Json:
        skipped: list[Json] = []
        while not expected(frame := await self.receive()):
            skipped.append(frame)
        self.pending[:0] = skipped
        return frame

    async def silence(self, seconds: float = QUIET) -> None:
        try:
            frame = await self.receive(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"unexpected {frame}")

    async def join(self, topic: str, *, access_token: str | None = None, **config: Any) -> Json:
        """Join `realtime:<topic>`, and return the ref of the join."""
        ref = str(next(self._refs))
        payload: Json = {"config": config}
        if access_token is not None:
            payload["access_token"] = access_token
        await self.push(f"realtime:{topic}", "phx_join", payload, join_ref=ref, ref=ref)
        reply = await self.reply_to(ref)
        return {**reply, "join_ref": ref}

    async def joined(self, topic: str, **options: Any) -> str:
        """Join the topic and return the join's ref. Any reply except ok fails the test."""
        reply = await self.join(topic, **options)
        assert reply["status"] == "ok", reply
        return reply["join_ref"]

    async def broadcast(self, topic: str, event: str, payload: Any) -> str | None:
        body = {"type": "broadcast", "event": event, "payload": payload}
        return await self.push(f"realtime:{topic}", "broadcast", body)

    async def is_alive(self) -> bool:
        """Return whether the server replies to a heartbeat."""
        ref = await self.push("phoenix", "heartbeat", {})
        return bool((await self.reply_to(ref))["status"] == "ok")


def decode(data: str | bytes) -> Json:
    """Decode a frame of either version. A binary frame of kind 4 is a broadcast."""
    if isinstance(data, bytes):
        assert (data[0], data[4]) == (4, 1), data[:5]
        topic, event, metadata, body = _cut(data[5:], data[1:4])
        payload = {"type": "broadcast", "event": event, "payload": json.loads(body)}
        if metadata:
            payload["meta"] = json.loads(metadata)
        result = {"topic": topic, "event": "broadcast", "payload": payload}
        return {"join_ref": None, "ref": None, **result}
    message = json.loads(data)
    if isinstance(message, list):
        return dict(zip(("join_ref", "ref", "topic", "event", "payload"), message, strict=True))
    return message


def _cut(data: bytes, lengths: bytes) -> list[str]:
    parts = []
    for length in lengths:
        parts.append(data[:length].decode())
        data = data[length:]
    return [*parts, data.decode()]


async def open_socket(server: Server, *, key: str = PUBLISHABLE, version: int = 2) -> Socket:
    url = server.websocket_url(key=key, vsn=f"{version}.0.0")
    # Disable ping time-outs, because a busy server may answer late.
    return Socket(await connect(url, max_size=None, compression=None, ping_timeout=None), version)
