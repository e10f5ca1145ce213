"""A local server with the documented video API of Mux and its storage, with faults on request."""

import asyncio
import json
import re
from collections import defaultdict
from typing import Any

from minutehand.config import Settings
from tests.support.misbehaving import MisbehavingServer, Request, write


class MuxServer(MisbehavingServer):
    """Stores uploads and assets.

    Attributes:
        failures: Number of requests for an upload that fail before the others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, dict[str, Any]] = {}
        self.assets: dict[str, dict[str, Any]] = {}
        self.received: dict[str, bytearray] = defaultdict(bytearray)
        self.failures = 0
        self.asset_status = "ready"

    def known_to(self, settings: Settings) -> Settings:
        """Return settings that use this server as the video host."""
        return settings.with_environ(
            MUX_TOKEN_ID="mux-id", MUX_TOKEN_SECRET="mux-secret", MUX_BASE_URL=self.origin
        )

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        """Respond to a call of the API, or store a piece of a video."""
        kind, _, name = request.target.removeprefix("/video/v1").strip("/").partition("/")
        if kind == "storage":
            status, more = self._store(name, request.headers["content-range"], request.body)
            write(writer, status, {}, more)
        elif request.method == "POST" and self.failures > 0:
            self.failures -= 1
            write(writer, 500, {})
        elif request.method == "POST":
            name = f"upload{len(self.uploads) + 1}"
            asked = json.loads(request.body)
            url = f"{self.origin}/storage/{name}"
            self.uploads[name] = {"id": name, "status": "waiting", "url": url, **asked}
            write(writer, 201, {"data": self.uploads[name]})
        else:
            write(writer, 200, {"data": (self.uploads | self.assets)[name]})

    def _store(self, upload: str, result: str, piece: bytes) -> tuple[int, dict[str, str]]:
        found = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\d+)", result)
        assert found is not None, result
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
