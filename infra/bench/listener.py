"""A follower of a workspace over Realtime: receives events, and reads again when asked to.

A server of its own beside a scratch project, with a plan's limits.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect

from infra.bench.paths import ROOT
from infra.bench.scratch import (
    JWT_SECRET,
    PUBLISHABLE_KEY,
    SECRET_KEY,
    WORKSPACE,
    Scratch,
    user_token,
)
from minutehand.local.ports import reserve_port
from minutehand.local.processes import spawn, stop
from minutehand.queue.broadcasts import MESSAGE_VERSION, events_of_message

TOPIC = f"workspace:{WORKSPACE}"
HEARTBEAT_SECONDS = 20.0


@contextmanager
def realtime(scratch: Scratch, *, plan: str = "pro") -> Iterator[int]:
    """Serve a project's Realtime for the length of the block; the port.

    Raises:
        RuntimeError: It did not come up.
    """
    port = reserve_port()
    server = spawn(
        [sys.executable, "-m", "supabase_local.realtime"],
        cwd=ROOT,
        env={
            "DATABASE_URL": scratch.database_url,
            "PORT": str(port),
            "SUPABASE_JWT_SECRET": JWT_SECRET,
            "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
            "SUPABASE_SECRET_KEY": SECRET_KEY,
            "REALTIME_PLAN": plan,
        },
        output=subprocess.DEVNULL,
    )
    try:
        give_up = time.monotonic() + 30
        while True:
            with suppress(httpx.HTTPError):
                url = f"http://127.0.0.1:{port}/realtime/v1/health"
                if httpx.get(url, trust_env=False).is_success:
                    break
            if time.monotonic() > give_up:
                raise RuntimeError(f"Realtime on port {port} did not come up")
            time.sleep(0.05)
        yield port
    finally:
        stop(server)


class Listener:
    """Holds one channel of the victim's workspace open.

    Args:
        call: Calls a SQL function as the victim.
    """

    def __init__(self, port: int, call: Callable[..., Awaitable[Any]]) -> None:
        # version 1 of the protocol is text alone
        self._url = (
            f"ws://127.0.0.1:{port}/realtime/v1/websocket?apikey={PUBLISHABLE_KEY}&vsn=1.0.0"
        )
        self._call = call
        self._heard: set[str] = set()
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._joined = asyncio.Event()
        #: Messages that said to look again.
        self.look_agains = 0

    async def __aenter__(self) -> Listener:
        await self._call(
            "follow_topic", p_topic=TOPIC, p_follower_id=str(uuid4()), p_version=MESSAGE_VERSION
        )
        self._feed = await self._call("event_feed", p_workspace_id=WORKSPACE, p_cursor=None)
        self._socket: ClientConnection = await connect(self._url)
        config = {"private": True, "broadcast": {"ack": False, "self": False}}
        await self._send("phx_join", {"config": config, "access_token": user_token()})
        self._ended = asyncio.ensure_future(self._receive())
        self._tasks = [self._ended, asyncio.ensure_future(self._beat())]
        async with asyncio.timeout(30):
            await self._joined.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._socket.close()

    async def heard(self, job_id: str) -> None:
        """Wait until an event of the job has come."""
        async with asyncio.timeout(120):
            while job_id not in self._heard:
                if self._ended.done():
                    raise RuntimeError("the channel ended") from self._ended.exception()
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._changed.wait()
        self._heard.clear()

    async def _send(self, event: str, payload: Any, topic: str = f"realtime:{TOPIC}") -> None:
        frame = {"topic": topic, "event": event, "payload": payload, "ref": "1", "join_ref": "1"}
        await self._socket.send(json.dumps(frame))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._send("heartbeat", {}, "phoenix")

    async def _receive(self) -> None:
        async for frame in self._socket:
            await self._read(frame)

    async def _read(self, frame: str | bytes) -> None:
        told = json.loads(frame)
        event, payload = told["event"], told["payload"]
        if told["topic"] != f"realtime:{TOPIC}":
            return
        if event == "phx_reply" and not self._joined.is_set():
            assert payload["status"] == "ok", payload
            self._joined.set()
        elif event == "broadcast":
            await self._take(payload["payload"])

    async def _take(self, told: dict[str, Any]) -> None:
        if told.get("look_again"):
            self.look_agains += 1
            await self._look()
        else:
            self._note(events_of_message(told))

    async def _look(self) -> None:
        """Read what the feed has since the last look."""
        more = True
        while more:
            cursor = self._feed["cursor"]
            self._feed = await self._call(
                "event_feed", p_workspace_id=WORKSPACE, p_cursor=cursor, p_limit=500
            )
            more = self._feed["more"]
            self._note(self._feed["events"])

    def _note(self, events: list[dict[str, Any]]) -> None:
        self._heard.update(str(event["job_id"]) for event in events)
        self._changed.set()
