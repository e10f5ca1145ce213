"""A small asyncio client of Postgres' frontend protocol, for replication connections only.

Ordinary SQL goes through psycopg, which has no replication protocol.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import os
import secrets
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

from psycopg.conninfo import conninfo_to_dict

#: Seconds between the Unix and the Postgres epoch.
_POSTGRES_EPOCH = 946_684_800
_CHUNK = 256 * 1024
#: Postgres is asked for a sign of life more often than this.
_SILENCE_SECONDS = 30.0


class ReplicationError(Exception):
    """Postgres refused or ended a replication connection."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and as whom to connect."""

    host: str
    port: int
    user: str
    password: str
    database: str

    @classmethod
    def from_url(cls, url: str) -> Endpoint:
        """Read a libpq connection string."""
        parts = conninfo_to_dict(url)
        user = str(parts.get("user") or os.environ.get("PGUSER") or "postgres")
        return cls(
            host=str(parts.get("host") or parts.get("hostaddr") or "127.0.0.1"),
            port=int(parts.get("port") or 5432),
            user=user,
            password=str(parts.get("password") or os.environ.get("PGPASSWORD") or ""),
            database=str(parts.get("dbname") or user),
        )


class WireConnection:
    """One replication connection; not safe for concurrent use."""

    def __init__(
        self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._endpoint = endpoint
        self._reader = reader
        self._writer = writer
        self.received_lsn = 0

    @classmethod
    async def connect(cls, endpoint: Endpoint, *, timeout: float = 5) -> WireConnection:
        """Open and authenticate a connection in logical replication mode.

        Raises:
            ReplicationError: Postgres refused.
            OSError: No one listens there.
        """
        async with asyncio.timeout(timeout):
            if endpoint.host.startswith("/"):
                path = f"{endpoint.host}/.s.PGSQL.{endpoint.port}"
                streams = await asyncio.open_unix_connection(path)
            else:
                streams = await asyncio.open_connection(endpoint.host, endpoint.port)
            connection = cls(endpoint, *streams)
            try:
                await connection._start_up()
            except BaseException:
                connection.close()
                raise
            return connection

    def close(self) -> None:
        """Close the socket; Postgres drops temporary slots with it."""
        self._writer.close()

    # ----------------------------------------------------------------------- messages

    async def _read(self) -> tuple[bytes, bytes]:
        try:
            kind, size = struct.unpack("!cI", await self._reader.readexactly(5))
            return kind, await self._reader.readexactly(size - 4)
        except asyncio.IncompleteReadError as error:
            raise ReplicationError("Postgres closed the connection") from error

    def _write(self, kind: bytes, body: bytes) -> None:
        self._writer.write(kind + struct.pack("!I", len(body) + 4) + body)

    async def _expect(self) -> tuple[bytes, bytes]:
        """Read the next message that is not a notice or a parameter."""
        while True:
            kind, body = await self._read()
            if kind == b"E":
                raise ReplicationError(error_text(body))
            if kind not in b"NSK":
                return kind, body

    async def _start_up(self) -> None:
        end = self._endpoint
        settings = {
            "user": end.user,
            "database": end.database,
            "replication": "database",
            "application_name": "realtime_replication",
            "client_encoding": "UTF8",
            "DateStyle": "ISO",
            "IntervalStyle": "postgres",
            "TimeZone": "UTC",
            "extra_float_digits": "3",
        }
        body = struct.pack("!I", 196608)
        body += b"".join(f"{k}\0{v}\0".encode() for k, v in settings.items()) + b"\0"
        self._writer.write(struct.pack("!I", len(body) + 4) + body)
        while True:
            kind, body = await self._expect()
            if kind == b"Z":
                return
            if kind == b"R":
                await self._authenticate(struct.unpack("!I", body[:4])[0], body[4:])

    async def _authenticate(self, method: int, body: bytes) -> None:
        password = self._endpoint.password.encode()
        if method == 0:
            return
        if method == 3:
            self._write(b"p", password + b"\0")
        elif method == 5:
            inner = hashlib.md5(password + self._endpoint.user.encode()).hexdigest()
            outer = hashlib.md5(inner.encode() + body[:4]).hexdigest()
            self._write(b"p", b"md5" + outer.encode() + b"\0")
        elif method == 10:
            await self._scram(body)
        else:
            raise ReplicationError(f"authentication method {method} is not supported")

    async def _scram(self, mechanisms: bytes) -> None:
        if b"SCRAM-SHA-256" not in mechanisms.split(b"\0"):
            raise ReplicationError("Postgres offers no SCRAM-SHA-256")
        nonce = secrets.token_urlsafe(18)
        first = f"n=,r={nonce}"
        initial = f"n,,{first}".encode()
        self._write(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(initial)) + initial)
        _, body = await self._expect()
        server_first = body[4:].decode()
        final, expected = scram_proof(self._endpoint.password, first, server_first, nonce)
        self._write(b"p", final.encode())
        _, body = await self._expect()
        if not hmac.compare_digest(body[4:].decode(), f"v={expected}"):
            raise ReplicationError("Postgres could not prove that it knows the password")

    async def query(self, sql: str) -> list[list[str | None]]:
        """Run one statement and return its rows as text."""
        self._write(b"Q", sql.encode() + b"\0")
        rows: list[list[str | None]] = []
        failure: str | None = None
        while True:
            kind, body = await self._read()
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                failure = error_text(body)
            elif kind == b"Z":
                if failure is not None:
                    raise ReplicationError(failure)
                return rows

    # --------------------------------------------------------------------- replication

    async def start_replication(self, slot: str, publication: str) -> None:
        """Begin to stream `publication` from the point where `slot` was made."""
        options = f"proto_version '1', publication_names '{publication}'"
        sql = f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 ({options})'
        self._write(b"Q", sql.encode() + b"\0")
        kind, _ = await self._expect()
        if kind != b"W":
            raise ReplicationError(f"unexpected answer {kind!r} to START_REPLICATION")

    async def stream(self) -> AsyncIterator[list[bytes]]:
        """Yield what arrived since the last time, one list of pgoutput messages per read.

        Raises:
            ReplicationError: The stream ended.
            TimeoutError: Postgres has not said anything for too long.
        """
        buffer = b""
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                chunk = await self._reader.read(_CHUNK)
            if not chunk:
                raise ReplicationError("Postgres ended the stream")
            buffer += chunk
            messages: list[bytes] = []
            at, size = 0, len(buffer)
            while size - at >= 5:
                end = at + 1 + int.from_bytes(buffer[at + 1 : at + 5], "big")
                if end > size:
                    break
                kind, body = buffer[at], buffer[at + 5 : end]
                at = end
                if kind == 0x64:  # CopyData
                    self._copy_data(body, messages)
                elif kind == 0x45:
                    raise ReplicationError(error_text(body))
            buffer = buffer[at:]
            if messages:
                yield messages

    def _copy_data(self, body: bytes, messages: list[bytes]) -> None:
        if body[0] == 0x77:  # w: XLogData(start, end, clock, data)
            start = int.from_bytes(body[1:9], "big")
            self.received_lsn = max(self.received_lsn, start)
            messages.append(body[25:])
        elif body[0] == 0x6B:  # k: keepalive(end, clock, reply wanted)
            self.received_lsn = max(self.received_lsn, int.from_bytes(body[1:9], "big"))
            if body[17]:
                self.confirm()

    def confirm(self, *, ask: bool = False) -> None:
        """Tell Postgres that everything received is done with, and perhaps ask for a sign."""
        lsn = self.received_lsn
        now = int((time.time() - _POSTGRES_EPOCH) * 1_000_000)
        self._write(b"d", b"r" + struct.pack("!QQQQB", lsn, lsn, lsn, now, ask))


def scram_proof(password: str, first: str, server_first: str, nonce: str) -> tuple[str, str]:
    """The client's last SCRAM message and the signature the server must answer with.

    References:
        https://www.rfc-editor.org/rfc/rfc5802#section-3
    """
    parts = dict(item.split("=", 1) for item in server_first.split(","))
    if not parts["r"].startswith(nonce):
        raise ReplicationError("Postgres answered with a foreign nonce")
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(parts["s"]), int(parts["i"])
    )

    def mac(key: bytes, text: str) -> bytes:
        return hmac.digest(key, text.encode(), "sha256")

    without_proof = f"c=biws,r={parts['r']}"
    signed = f"{first},{server_first},{without_proof}"
    client_key = mac(salted, "Client Key")
    signature = mac(hashlib.sha256(client_key).digest(), signed)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    expected = mac(mac(salted, "Server Key"), signed)
    final = f"{without_proof},p={base64.b64encode(proof).decode()}"
    return final, base64.b64encode(expected).decode()


def _row(body: bytes) -> list[str | None]:
    (count,) = struct.unpack("!H", body[:2])
    at = 2
    values: list[str | None] = []
    for _ in range(count):
        (size,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        if size < 0:
            values.append(None)
        else:
            values.append(body[at : at + size].decode())
            at += size
    return values


def error_text(body: bytes) -> str:
    """The SQLSTATE and message of an ErrorResponse."""
    fields: dict[str, Any] = {
        part[:1].decode(): part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part
    }
    return f"{fields.get('C', '')} {fields.get('M', 'unknown error')}".strip()


def describe(error: BaseException) -> str:
    """An error in one line for a log."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


__all__ = ["Endpoint", "ReplicationError", "WireConnection", "describe", "scram_proof"]
