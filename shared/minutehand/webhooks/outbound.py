"""Calls to foreign services: public addresses only, each connected to as it was checked.

A name that resolves to another address between the check and the connection changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx

from minutehand.queue.foreign import trusted

#: Beyond what `ipaddress` calls not global: ranges that lead to an IPv4 address inside, or nowhere.
_RANGES = (
    "100.64.0.0/10 192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 ::/96 ::ffff:0:0/96 64:ff9b::/96 "
    "64:ff9b:1::/48 100::/64 2001::/23 2002::/16 3fff::/20 fec0::/10"
)
_REFUSED = [ipaddress.ip_network(text) for text in _RANGES.split()]
_MOST_TRIED = 4


class AddressRefused(Exception):
    """The URL leads, or may lead, into a network that is not public."""


def is_public(address: str, *, or_loopback: bool = False) -> bool:
    """Whether an IP address is reachable from anywhere, or perhaps this machine's own."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return (or_loopback and parsed.is_loopback) or (
        parsed.is_global
        and not parsed.is_multicast
        and not parsed.is_reserved
        and not any(parsed.version == net.version and parsed in net for net in _REFUSED)
    )


async def resolve(host: str, port: int, *, loopback: bool) -> list[str]:
    """Every address of `host`, all of them checked.

    Args:
        loopback: Whether this machine itself may be meant; for development.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address, or_loopback=loopback):
            # which address stays untold: it would describe our network to the subscriber
            raise AddressRefused(f"{host} resolves to an address that is not public")
    return addresses


class PublicTransport(httpx.AsyncBaseTransport):
    """Sends each request to an address it has checked, under the name that was asked for.

    Connections are not kept: one made and verified for one name must not serve another name at
    the same address. An answer's cookies are not either.
    """

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        self._inner = httpx.AsyncHTTPTransport(
            verify=trusted(), limits=httpx.Limits(max_connections=100, max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Resolve, check, then connect to the first address that takes the connection."""
        url = request.url
        if url.scheme != "https" and not (self._loopback and url.scheme == "http"):
            raise AddressRefused("only https addresses are allowed")
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = await resolve(host, port, loopback=self._loopback)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host} does not resolve", request=request) from error
        refused: httpx.TransportError = httpx.ConnectError(f"{host} has no address")
        for address in addresses[:_MOST_TRIED]:
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # with the Host of the name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                response = await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                refused = error
                continue
            # a client would keep as many as a stranger sends, and give them to the next caller
            response.headers.pop("set-cookie", None)
            return response
        raise refused

    async def aclose(self) -> None:
        """Close every connection."""
        await self._inner.aclose()
