"""The parts of the stack: how each is started and how one sees that it works."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from minutehand.app import App
from minutehand.local.aws import BUCKET
from minutehand.local.environment import Ports
from minutehand.node import node_binary, script
from supabase_local.ports import LOOPBACK, reserve_port

Probe = Callable[[httpx.AsyncClient], Awaitable[bool]]


@dataclass(frozen=True)
class Part:
    """One child process."""

    name: str
    command: tuple[str, ...]
    probe: Probe
    environment: Mapping[str, str] = field(default_factory=dict)


def answers(url: str) -> Probe:
    """Build a probe that is satisfied by 200 from `url`."""
    return _probe(url, lambda answer: answer.status_code == 200)


def ticked(url: str) -> Probe:
    """Build a probe that asks readiness whether a tick was seen: it publishes the job types."""
    # the other checks are of the queue's state, which must not prevent a start
    return _probe(url, lambda answer: answer.json()["checks"]["last_tick"]["verdict"] == "pass")


def _probe(url: str, satisfies: Callable[[httpx.Response], bool]) -> Probe:
    async def probe(client: httpx.AsyncClient) -> bool:
        try:
            return satisfies(await client.get(url))
        except (httpx.TransportError, ValueError, KeyError, TypeError):
            return False  # a server on its way up may answer anything

    return probe


def service_parts(ports: Ports) -> list[Part]:
    """List everything but Postgres, in the order in which it is started."""
    python = sys.executable
    ready = f"http://{LOOPBACK}:{ports.api}/api/health/ready"
    return [
        Part(
            "gateway",
            (str(node_binary()), str(script("supabase_local/gateway/server.mjs"))),
            answers(f"http://{LOOPBACK}:{ports.gateway}/_ready"),
            {"GATEWAY_PORT": str(ports.gateway), "REALTIME_PORT": str(ports.realtime)},
        ),
        Part(
            "realtime",
            (python, "-m", "supabase_local.realtime"),
            answers(f"http://{LOOPBACK}:{ports.realtime}/health"),
            {"PORT": str(ports.realtime)},
        ),
        Part(
            "api",
            (python, "-m", "minutehand.local.api"),
            ticked(ready),  # before its first tick no job type is known
            {"API_PORT": str(ports.api)},
        ),
        Part(
            "aws",
            (python, "-m", "minutehand.local.aws"),
            answers(f"http://{LOOPBACK}:{ports.aws}/{BUCKET}?cors"),
            {"AWS_PORT": str(ports.aws)},
        ),
    ]


def companions(apps: Sequence[App]) -> tuple[list[Part], dict[str, str]]:
    """The apps' processes, each on a free port, and the variables with their addresses."""
    parts: list[Part] = []
    variables: dict[str, str] = {}
    for app in apps:
        module = app.module("local")
        if module is None:
            continue
        urls: dict[str, str] = {}
        for name, (program, values) in module.PROCESSES.items():
            port = reserve_port()
            urls[name] = f"http://{LOOPBACK}:{port}"
            parts.append(
                Part(
                    name,
                    (sys.executable, "-m", program),
                    answers(urls[name] + module.READY),
                    {**values, "PORT": str(port)},
                )
            )
        variables.update(module.environment(urls))
    return parts, variables
