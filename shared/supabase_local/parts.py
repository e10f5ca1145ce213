"""The parts of a stack, with the command that starts a part and the probe that checks it."""

import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import httpx

from supabase_local.node import GATEWAY, node_binary
from supabase_local.ports import LOOPBACK

Probe = Callable[[httpx.AsyncClient], Awaitable[bool]]


@dataclass(frozen=True)
class Part:
    """One child process of a stack."""

    name: str
    command: tuple[str, ...]
    probe: Probe
    environment: Mapping[str, str] = field(default_factory=dict)
    #: True if the part starts after all migrations, and stops before the database.
    needs_database: bool = False


def is_ok(url: str) -> Probe:
    """Return a probe that requires a response with status 200 from `url`."""
    return probe(url, lambda response: response.status_code == 200)


def probe(url: str, is_satisfied: Callable[[httpx.Response], bool]) -> Probe:
    """Return a probe that requests `url` and checks the response."""

    async def ask(client: httpx.AsyncClient) -> bool:
        try:
            return is_satisfied(await client.get(url))
        except (httpx.TransportError, ValueError, KeyError, TypeError):
            return False  # while a server starts, it may return any response

    return ask


def supabase_parts(
    *, gateway_port: int, realtime_port: int, site_url: str, schemas: Iterable[str] = ()
) -> list[Part]:
    """Return Realtime, and the gateway, which serves the Data API and Auth and forwards sockets.

    Args:
        gateway_port: Port of the project's URL.
        realtime_port: Port of Realtime, to which only the gateway connects.
        site_url: Page to which Auth's mails link.
        schemas: Exposed schemas in addition to `public`.
    """
    gateway = {
        "GATEWAY_PORT": str(gateway_port),
        "REALTIME_PORT": str(realtime_port),
        "SITE_URL": site_url,
        "DATA_API_SCHEMAS": ",".join(schemas),
        "LITE_TELEMETRY": "0",
    }
    return [
        Part(
            "gateway",
            (str(node_binary()), str(GATEWAY)),
            is_ok(f"http://{LOOPBACK}:{gateway_port}/_ready"),
            gateway,
        ),
        Part(
            "realtime",
            (sys.executable, "-m", "supabase_local.realtime"),
            is_ok(f"http://{LOOPBACK}:{realtime_port}/health"),
            {"PORT": str(realtime_port)},
            needs_database=True,
        ),
    ]
