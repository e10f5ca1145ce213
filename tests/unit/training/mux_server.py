"""Mux's video API and its storage, as documented, with their ways to fail.

Speaks plain HTTP/1.1 over asyncio, because hanging and breaking off are part of the job.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Self

TOKEN_ID, TOKEN_SECRET = "mux-id-0001", "mux-secret-0001"


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of its answer; `after` the work was done all the same."""

    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: bool = False


class MuxServer:
    """Keeps uploads and assets; `faults` are by method and first word of the path."""

    def __init__(self) -> None:
        self.uploads: dict[str, dict[str, Any]] = {}
        self.assets: dict[str, dict[str, Any]] = {}
        self.received: dict[str, bytearray] = defaultdict(bytearray)
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.calls: list[str] = []
        self.asset_status = "ready"
        self.lapsed: set[str] = set()
        self.reached = asyncio.Event()
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._open)

    @property
    def url(self) -> str:
        """What MUX_BASE_URL holds."""
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # the client went away, which is its right
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, path, _ = head.split(" ", 2)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        kind = path.removeprefix("/video/v1").strip("/").split("/")[0]
        self.calls.append(f"{method} {kind}")
        queue = self.faults[f"{method} {kind}"]
        fault = queue.pop(0) if queue else None
        if fault is not None and fault.hang:
            self.reached.set()
            await self._stop.wait()
            return
        if fault is not None and not fault.cut:
            self._write(writer, fault.status, fault.body or {}, fault.headers)
        elif kind == "storage":
            status, more = self._store(path.rpartition("/")[2], headers["content-range"], body)
            self._write(writer, status, {}, more)
        elif headers.get("authorization") != f"Basic {_basic()}":
            self._write(writer, 401, {"error": {"type": "unauthorized", "messages": ["Who?"]}})
        else:
            status, told = self._api(method, path.removeprefix("/video/v1"), body)
            self._write(writer, status, told, cut=fault is not None)
        await writer.drain()

    def _api(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        missing = {"error": {"type": "not_found", "messages": ["The requested resource"]}}
        parts = path.strip("/").split("/")
        if (method, path) == ("POST", "/uploads"):
            asked = json.loads(body)
            number = f"upload{len(self.uploads) + 1}"
            self.uploads[number] = {
                "id": number,
                "status": "waiting",
                "timeout": asked["timeout"],
                "new_asset_settings": asked["new_asset_settings"],
                "url": f"{self.url}/storage/{number}",
            }
            return 201, {"data": self.uploads[number]}
        found = (self.uploads if parts[0] == "uploads" else self.assets).get(parts[1])
        if found is None:
            return 404, missing
        if method == "GET":
            return 200, {"data": found}
        if method == "PUT" and parts[-1] == "cancel":
            if found["status"] != "waiting":
                messages = ["This upload cannot be cancelled"]
                return 403, {"error": {"type": "forbidden", "messages": messages}}
            found["status"] = "cancelled"
            return 200, {"data": found}
        self.assets.pop(parts[1])
        return 204, None

    def _store(self, upload: str, told: str, piece: bytes) -> tuple[int, dict[str, str]]:
        if upload in self.lapsed:
            self.uploads[upload]["status"] = "timed_out"
            return 410, {}
        found = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\d+)", told)
        assert found is not None, told
        got, size = self.received[upload], int(found[3])
        if found[1] is not None and int(found[1]) == len(got):
            got += piece
        if len(got) < size:
            return 308, {"range": f"bytes=0-{len(got) - 1}"} if got else {}
        if self.uploads[upload]["status"] == "waiting":
            asset = f"asset-of-{upload}"
            self.uploads[upload] |= {"status": "asset_created", "asset_id": asset}
            self.assets[asset] = {
                "id": asset,
                "status": self.asset_status,
                "duration": 19.03,
                "playback_ids": [{"policy": "signed", "id": f"playback-of-{upload}"}],
            }
        return 200, {}

    def _write(
        self,
        writer: asyncio.StreamWriter,
        status: int,
        told: Any,
        headers: dict[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        raw = b"" if status == 204 else json.dumps(told).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        length = "" if status == 204 else f"content-length: {len(raw)}\r\n"
        writer.write(
            f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}{length}"
            "connection: close\r\n\r\n".encode()
            + (raw[: len(raw) // 2] if cut else raw)
        )


def _basic() -> str:
    return base64.b64encode(f"{TOKEN_ID}:{TOKEN_SECRET}".encode()).decode()
