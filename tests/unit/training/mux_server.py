"""Mux's video API and its storage, as documented, with their ways to fail.

How it listens, hangs and breaks off is the matter of `tests/support/misbehaving.py`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import defaultdict
from typing import Any

from minutehand.config import Settings
from tests.support.misbehaving import Fault, MisbehavingServer, Request, write

TOKEN_ID, TOKEN_SECRET = "mux-id-0001", "mux-secret-0001"


class MuxServer(MisbehavingServer):
    """Keeps uploads and assets; `faults` are by method and first word of the path.

    A request whose answer is cut has had its effect all the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, dict[str, Any]] = {}
        self.assets: dict[str, dict[str, Any]] = {}
        self.received: dict[str, bytearray] = defaultdict(bytearray)
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.calls: list[str] = []
        self.asset_status = "ready"
        self.expired: set[str] = set()
        #: What uploads become that are complete but of no use: errored; None when they are.
        self.spoiled: str | None = None

    @property
    def url(self) -> str:
        """What MUX_BASE_URL holds."""
        return self.origin

    def known_to(self, settings: Settings) -> Settings:
        """Settings with this server as their video host."""
        return settings.with_environ(
            MUX_TOKEN_ID=TOKEN_ID, MUX_TOKEN_SECRET=TOKEN_SECRET, MUX_BASE_URL=self.url
        )

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Do what is asked of the API, or take in a piece of a video."""
        path = request.target.removeprefix("/video/v1")
        kind = path.strip("/").split("/")[0]
        self.calls.append(f"{request.method} {kind}")
        queue = self.faults[f"{request.method} {kind}"]
        fault = queue.pop(0) if queue else None
        if fault is not None and fault.hang:
            await self.hang()
        if fault is not None and not fault.cut:
            write(writer, fault.status, fault.body or {}, fault.headers)
        elif kind == "storage":
            piece = request.headers["content-range"]
            status, more = self._store(path.rpartition("/")[2], piece, request.body)
            write(writer, status, {}, more)
        elif request.headers.get("authorization") != f"Basic {_basic()}":
            write(writer, 401, {"error": {"type": "unauthorized", "messages": ["Who?"]}})
        else:
            status, told = self._api(request.method, path, request.body)
            write(writer, status, told, cut=fault is not None)

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
        if upload in self.expired:
            self.uploads[upload]["status"] = "timed_out"
            return 410, {}
        found = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\d+)", told)
        assert found is not None, told
        got, size = self.received[upload], int(found[3])
        if found[1] is not None and int(found[1]) == len(got):
            got += piece
        if len(got) < size:
            return 308, {"range": f"bytes=0-{len(got) - 1}"} if got else {}
        if self.spoiled is not None:
            self.uploads[upload]["status"] = self.spoiled
        elif self.uploads[upload]["status"] == "waiting":
            asset = f"asset-of-{upload}"
            self.uploads[upload] |= {"status": "asset_created", "asset_id": asset}
            self.assets[asset] = {
                "id": asset,
                "status": self.asset_status,
                "duration": 19.03,
                "playback_ids": [{"policy": "signed", "id": f"playback-of-{upload}"}],
            }
        return 200, {}


def _basic() -> str:
    return base64.b64encode(f"{TOKEN_ID}:{TOKEN_SECRET}".encode()).decode()
