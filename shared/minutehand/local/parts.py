"""The product's parts in a local stack: the API with its worker, AWS, and the apps' servers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import httpx

from minutehand.app import App
from minutehand.local.aws import BUCKET
from supabase_local.parts import Part, is_ok, probe
from supabase_local.ports import LOOPBACK, reserve_port


def service_parts(api_port: int, aws_port: int) -> list[Part]:
    """Return the API, which starts the worker, and AWS."""
    return [
        Part(
            "api",
            (sys.executable, "-m", "minutehand.local.api"),
            # No job type is registered before the worker's first run.
            probe(f"http://{LOOPBACK}:{api_port}/api/health/ready", _has_ticked),
            {"API_PORT": str(api_port)},
            needs_database=True,  # A worker must not start between two migrations.
        ),
        Part(
            "aws",
            (sys.executable, "-m", "minutehand.local.aws"),
            is_ok(f"http://{LOOPBACK}:{aws_port}/{BUCKET}?cors"),
            {"AWS_PORT": str(aws_port)},
        ),
    ]


def _has_ticked(response: httpx.Response) -> bool:
    """Return whether the worker has run once, which registers the job types."""
    # Other health checks are ignored, because the queue's state must not prevent a start.
    return bool(response.json()["checks"]["last_tick"]["verdict"] == "pass")


def companions(apps: Sequence[App]) -> tuple[list[Part], dict[str, str]]:
    """Return the apps' processes, each on a free port, and the variables with their URLs."""
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
                    is_ok(urls[name] + module.READY),
                    {**values, "PORT": str(port)},
                )
            )
        variables.update(module.environment(urls))
    return parts, variables
