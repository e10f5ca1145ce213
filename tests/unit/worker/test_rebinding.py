"""DNS that answers differently the second time, by a live resolver on this machine.

Every look-up of the event loop goes to it as a DNS message over UDP, whoever asks: the transport
that checks, or the HTTP client beneath it that connects.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest

from minutehand.worker.outbound import AddressRefused, PublicTransport

NAME = "hook.example"


class Resolver(asyncio.DatagramProtocol):
    """Answers A questions from a list, one answer per question; the last one stays."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the socket."""
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer one question (RFC 1035 4.1) with a time to live of zero."""
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        self.questions.append(".".join(labels))
        given = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        head = data[:2] + struct.pack(">HHHHH", 0x8180, 1, len(given), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(address)
            for address in given
        )
        self.transport.sendto(head + data[12 : at + 5] + records, addr)


def ask(port: int, name: str) -> list[str]:
    """One question over UDP, as a stub resolver asks it."""
    question = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(60)
        query = b"\x12\x34" + struct.pack(">HHHHH", 0x0100, 1, 0, 0, 0) + question
        udp.sendto(query + struct.pack(">HH", 1, 1), ("127.0.0.1", port))
        answer = udp.recv(512)
    count, at = struct.unpack(">H", answer[6:8])[0], 12 + len(question) + 4
    return [socket.inet_ntoa(answer[at + 16 * n + 12 : at + 16 * n + 16]) for n in range(count)]


@asynccontextmanager
async def resolving(monkeypatch: pytest.MonkeyPatch, resolver: Resolver) -> AsyncIterator[None]:
    """Send every look-up of a name by this loop to the resolver."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: resolver, ("127.0.0.1", 0))
    udp_port = transport.get_extra_info("sockname")[1]
    own = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name != NAME:
            return await own(host, port, **more)
        found = await loop.run_in_executor(None, ask, udp_port, name)
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (address, int(port))) for address in found]

    monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
    try:
        yield
    finally:
        transport.close()


@asynccontextmanager
async def listening(address: str, port: int = 0) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on one address of this machine: its port, and what it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, address, port)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


async def test_the_second_answer_is_never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """First the address that passes, then the trap: the connection goes where the check looked."""
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    async with (
        resolving(monkeypatch, resolver),
        listening("127.0.0.1") as (port, passed),
        listening("127.0.0.2", port) as (_, trapped),
        httpx.AsyncClient(transport=PublicTransport(loopback=True)) as http,
    ):
        answer = await http.post(f"http://{NAME}:{port}/in", content=b"event")

    assert answer.status_code == 200
    assert resolver.questions == [NAME]
    assert len(passed) == 1
    assert trapped == []
    assert f"host: {NAME}".encode() in passed[0].lower()


async def test_each_request_is_checked_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name that passed a minute ago leads inside now: no address is kept for it."""
    resolver = Resolver(["127.0.0.1"], ["10.0.0.7"])
    async with (
        resolving(monkeypatch, resolver),
        listening("127.0.0.1") as (port, passed),
        httpx.AsyncClient(transport=PublicTransport(loopback=True)) as http,
    ):
        await http.post(f"http://{NAME}:{port}/in")
        with pytest.raises(AddressRefused):
            await http.post(f"http://{NAME}:{port}/in")

    assert resolver.questions == [NAME, NAME]
    assert len(passed) == 1


@pytest.mark.parametrize(
    "answer",
    [["127.0.0.1"], ["169.254.169.254"], ["93.184.216.34", "10.0.0.7"], ["100.64.0.1"]],
)
async def test_outside_of_development_such_answers_connect_to_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    """One inward address among public ones is enough."""
    resolver = Resolver(answer)
    async with (
        resolving(monkeypatch, resolver),
        listening("127.0.0.1") as (port, heard),
        httpx.AsyncClient(transport=PublicTransport(loopback=False)) as http,
    ):
        with pytest.raises(AddressRefused):
            await http.post(f"https://{NAME}:{port}/in")

    assert resolver.questions == [NAME]
    assert heard == []


async def test_a_name_without_an_address_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty answer is a failed delivery and nothing else."""
    async with (
        resolving(monkeypatch, Resolver([])),
        httpx.AsyncClient(transport=PublicTransport(loopback=False)) as http,
    ):
        with pytest.raises(httpx.ConnectError):
            await http.post(f"https://{NAME}/in")
