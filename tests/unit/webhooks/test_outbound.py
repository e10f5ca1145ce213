"""Webhook requests go only to public addresses, and to the address that was checked."""

import asyncio
import socket
from typing import Any

import httpx
import pytest

from minutehand.webhooks.outbound import AddressRejected, PublicTransport, is_public, resolve

NAME = "hook.example"
#: Addresses that are not public: private, shared, loopback, link-local, multicast, reserved, and
#: IPv4 inside IPv6.
NOT_PUBLIC = (
    "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 192.0.0.8 192.88.99.1 198.18.0.1 "
    "224.0.0.1 240.0.0.1 :: ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 "
    "2002:7f00:1:: 3fff::1 fc00::1 fe80::1%eth0 fec0::1 ff02::1"
)
ODD_SPELLINGS = (
    "https://0/ https://2130706433/ https://0x7f.0.0.1/ https://[64:ff9b::7f00:1]/ "
    "https://localhost/ http://1.1.1.1/"
)


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not is_public(address)
    assert is_public("1.1.1.1")


@pytest.mark.parametrize("url", ODD_SPELLINGS.split())
async def test_odd_spellings_lead_nowhere(url: str) -> None:
    """A URL that spells a private address in an unusual way is rejected before a connection."""
    async with httpx.AsyncClient(transport=PublicTransport(loopback=False)) as http:
        with pytest.raises(
            (AddressRejected, httpx.ConnectError), match=r"not public|does not resolve|with https"
        ):
            await http.post(url)


async def test_one_private_address_among_public_ones_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host name that resolves to a private and a public address is rejected."""
    answer_with(monkeypatch, ["93.184.216.34", "10.0.0.1"])

    with pytest.raises(AddressRejected, match=NAME):
        await resolve(NAME, 443, loopback=True)


async def test_the_checked_address_is_connected_to_under_the_name_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The host name is resolved once.

    The request goes to the first checked address that accepts a connection, with the name as Host.
    """
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    names = answer_with(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    async with server, httpx.AsyncClient(transport=PublicTransport(loopback=True)) as http:
        response = await http.post(f"http://{NAME}:{port}/in", content=b"{}")

    assert response.status_code == 204
    assert f"host: {NAME}:{port}".encode() in heads[0].lower()
    assert names == [NAME]


def answer_with(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> list[str]:
    """Make the resolver return these addresses. Return the list of resolved names."""
    names: list[str] = []

    def look_up(host: Any, port: Any, *_args: Any, **_options: Any) -> list[Any]:
        names.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names
