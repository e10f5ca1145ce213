"""HTTP requests to services of strangers, which must have public addresses.

A request connects to exactly the address that was checked. If the host name resolves to another
address after the check, the new address is not used.
"""

import asyncio
import ipaddress
import socket

import httpx

from minutehand.queue.outbound_http import trusted

#: Address ranges that `ipaddress` considers global, although they contain an IPv4 address or are
#: not routed.
_RANGES = (
    "100.64.0.0/10 192.0.0.0/24 192.88.99.0/24 198.18.0.0/15 ::/96 ::ffff:0:0/96 64:ff9b::/96 "
    "64:ff9b:1::/48 100::/64 2001::/23 2002::/16 3fff::/20 fec0::/10"
)
_REJECTED = [ipaddress.ip_network(text) for text in _RANGES.split()]
_MAX_ADDRESSES = 4


class AddressRejected(Exception):
    """The URL refers, or may refer, to a network that is not public."""


def is_public(address: str, *, or_loopback: bool = False) -> bool:
    """Return whether an IP address is public.

    With `or_loopback`, also accept loopback addresses.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return (or_loopback and parsed.is_loopback) or (
        parsed.is_global
        and not parsed.is_multicast
        and not parsed.is_reserved
        and not any(parsed.version == net.version and parsed in net for net in _REJECTED)
    )


async def resolve(host: str, port: int, *, loopback: bool) -> list[str]:
    """Resolve a host name, and return its addresses. All IP addresses of the host must be public.

    Args:
        loopback: True to accept addresses of this machine, for development.

    Raises:
        AddressRejected: One of the addresses is not public.
    """
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
    for address in addresses:
        if not is_public(address, or_loopback=loopback):
            # omit the address, because it would show the subscriber a part of the internal network
            raise AddressRejected(f"{host} resolves to an address that is not public")
    return addresses


class PublicTransport(httpx.AsyncBaseTransport):
    """Sends a request to an address of its host that was checked.

    Each delivery has its own transport, because a connection that was verified for one host name
    must not be used for another host name with the same address.
    """

    def __init__(self, *, loopback: bool) -> None:
        self._loopback = loopback
        self._inner = httpx.AsyncHTTPTransport(verify=trusted())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Resolve and check the host.

        Send the request to the first address that accepts a connection.
        """
        url = request.url
        if url.scheme != "https" and not (self._loopback and url.scheme == "http"):
            raise AddressRejected("the URL must begin with https")
        host = url.raw_host.decode("ascii")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            candidates = await resolve(host, port, loopback=self._loopback)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host} does not resolve", request=request) from error
        last_error: httpx.TransportError = httpx.ConnectError(f"{host} has no address")
        for address in candidates[:_MAX_ADDRESSES]:
            pinned = httpx.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,  # the header Host has the host's name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return await self._inner.handle_async_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                last_error = error
        raise last_error

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()
