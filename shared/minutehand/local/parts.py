"""Minutehand's processes in the local stack: the API with a worker, AWS, and servers of apps."""

import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from minutehand.app import App
from minutehand.local.aws import BUCKET
from supabase_local.parts import Part, is_ok, probe
from supabase_local.ports import LOOPBACK, reserve_port


def service_parts(api_port: int, aws_port: int, state: Path) -> list[Part]:
    """Return the process of the API, which starts the worker, and that of the AWS simulation."""
    return [
        Part(
            "api",
            (sys.executable, "-m", "minutehand.local.api"),
            # wait for the worker's first run, because it registers the job types
            probe(f"http://{LOOPBACK}:{api_port}/api/health/ready", _has_ticked),
            {"API_PORT": str(api_port)},
            needs_database=True,  # no worker may start between two migrations
        ),
        Part(
            "aws",
            (sys.executable, "-m", "minutehand.local.aws"),
            is_ok(f"http://{LOOPBACK}:{aws_port}/{BUCKET}?cors"),
            {"AWS_PORT": str(aws_port), "UPLOADS_FOLDER": str(state / "uploads")},
        ),
    ]


def _has_ticked(response: httpx.Response) -> bool:
    """Return whether the worker has run once and has thereby registered the job types."""
    # ignore other health checks, because a problem of the queue must not prevent the stack's start
    return bool(response.json()["checks"]["last_tick"]["verdict"] == "pass")


def companions(apps: Sequence[App]) -> tuple[list[Part], dict[str, str]]:
    """Return the apps' server processes, each on a free port, and variables with all URLs."""
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
