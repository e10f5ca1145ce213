# ruff: noqa: E501 - tables of addresses stay compact
"""Where a webhook may lead, and that the connection goes to the address that was checked."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from minutehand.webhooks.outbound import AddressRefused, PublicTransport, is_public, resolve

NAME = "hook.example"


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1", "172.31.255.255",
        "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "203.0.113.9", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8",
        "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "fc00::1",
        "fd12:3456::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused(address: str) -> None:
    """Private, shared, loopback, link-local, multicast, reserved, and IPv4 wrapped in IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "2a00:1450::1"],
)
def test_public_addresses_are_taken(address: str) -> None:
    """Their neighbours outside the private ranges too."""
    assert is_public(address)


@pytest.mark.parametrize("url", ["https://[::ffff:127.0.0.1]/", "https://127.1/", "https://0/", "https://2130706433/", "https://0x7f.0.0.1/", "https://0x7f000001/", "https://017700000001/", "https://[::ffff:7f00:1]/", "https://[64:ff9b::7f00:1]/", "https://localhost./", "https://localhost/", "http://1.1.1.1/"])  # fmt: skip
async def test_odd_spellings_lead_nowhere(url: str) -> None:
    """The resolver's reading counts, not the spelling."""
    async with httpx.AsyncClient(transport=PublicTransport(loopback=False)) as http:
        with pytest.raises((AddressRefused, httpx.ConnectError)):
            await http.post(url)


async def test_one_private_address_among_public_ones_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever answers so has something in mind."""
    answer_with(monkeypatch, ["93.184.216.34", "10.0.0.1"])

    with pytest.raises(AddressRefused, match=NAME):
        await resolve(NAME, 443, loopback=True)


async def test_this_machine_is_reached_in_development_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Elsewhere a stranger's webhook would lead to what listens beside the worker."""
    answer_with(monkeypatch, ["127.0.0.1"])

    assert await resolve(NAME, 443, loopback=True) == ["127.0.0.1"]
    with pytest.raises(AddressRefused, match=NAME):
        await resolve(NAME, 443, loopback=False)


async def test_the_checked_address_is_connected_to_under_the_name_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One look-up only; certificate, SNI and Host are those of the name."""
    server_side, client_side = tls(tmp_path)
    names: list[str | None] = []
    server_side.sni_callback = lambda _socket, name, _context: names.append(name)
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_side)
    port = server.sockets[0].getsockname()[1]
    asked = answer_with(monkeypatch, ["127.0.0.1"])
    async with (
        server,
        httpx.AsyncClient(transport=PublicTransport(loopback=True, verify=client_side)) as http,
    ):
        response = await http.post(f"https://{NAME}:{port}/in", content=b"{}")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
            await http.post(f"https://other.example:{port}/in", content=b"{}")

    assert response.status_code == 204
    assert f"host: {NAME}:{port}".encode() in heads[0].lower()
    assert names == [NAME, "other.example"]
    assert asked == [NAME, "other.example"]


def answer_with(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> list[str]:
    """Let the system's resolver answer so; returns the names it is asked for."""
    asked: list[str] = []

    def look_up(host: Any, port: Any, *_args: Any, **_options: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def tls(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server that is `NAME`, and a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path = folder / "server.pem"
    path.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())


async def test_no_cookie_is_kept_of_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one endpoint fills the worker's memory, and hears what another tenant's was given."""
    answer_with(monkeypatch, ["127.0.0.1"])
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        cookies = b"".join(b"Set-Cookie: c%d=1\r\n" % number for number in range(1000))
        writer.write(b"HTTP/1.1 204 No Content\r\n" + cookies + b"X-Kept: 1\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://{NAME}:{server.sockets[0].getsockname()[1]}/"
    async with server, httpx.AsyncClient(transport=PublicTransport(loopback=True)) as http:
        answers = [await http.get(url) for _ in range(2)]
        assert len(http.cookies) == 0

    assert [response.headers.get("x-kept") for response in answers] == ["1", "1"]
    assert not any(b"cookie" in head.lower() for head in heads)
