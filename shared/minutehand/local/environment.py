"""The environment of the local stack: what its parts are started with, what `.local/env` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from minutehand.local.aws import BUCKET, REGION
from minutehand.local.ports import LOOPBACK, reserve_port
from minutehand.local.users import ADA, EVE, PASSWORD
from minutehand.project import VARIABLE, Project

PREFERRED_GATEWAY = 54321
PREFERRED_API = 8000


@dataclass(frozen=True)
class Ports:
    """Where each part listens on loopback."""

    gateway: int
    realtime: int
    aws: int
    api: int

    @classmethod
    def choose(cls, *, prefer_known: bool) -> Ports:
        """Reserve ports; the documented ones when free, unless many stacks share the machine."""
        return cls(
            gateway=reserve_port(PREFERRED_GATEWAY if prefer_known else None),
            realtime=reserve_port(),
            aws=reserve_port(),
            api=reserve_port(PREFERRED_API if prefer_known else None),
        )


def contract(
    ports: Ports,
    secrets: Mapping[str, str],
    database_url: str,
    state: Path,
    project: Project,
) -> dict[str, str]:
    """Build what `.local/env` holds: the names that design.md gives to tools, and the settings."""
    gateway = f"http://{LOOPBACK}:{ports.gateway}"
    api = f"http://{LOOPBACK}:{ports.api}"
    return {
        "SUPABASE_URL": gateway,
        **secrets,
        "DATABASE_URL": database_url,
        "API_URL": api,
        "CONSOLE_URL": f"{api}/",
        "REALTIME_URL": f"ws://{LOOPBACK}:{ports.gateway}/realtime/v1",
        "AWS_ENDPOINT_URL": f"http://{LOOPBACK}:{ports.aws}",
        "AWS_REGION": REGION,
        "WORKER_SECRET_TOKEN": "dev-secret-token",
        "BACKGROUND_JOB_TOKEN": "dev-background-token",
        "DEMO_EMAIL": ADA.email,
        "DEMO_PASSWORD": PASSWORD,
        "DEMO_WORKSPACE_ID": str(ADA.workspace_id),
        "DEMO_OTHER_EMAIL": EVE.email,
        "DEMO_OTHER_WORKSPACE_ID": str(EVE.workspace_id),
        **project.environment,
        VARIABLE: str(project.root),
        "STAGE": "local",
        "CORS_ORIGINS": f"{api},http://localhost:{ports.api}",
        "ALLOW_ANONYMOUS": "true",
        "STREAMING": "true",
        "USE_MOCK_APOLLO": "true",
        "ENABLE_ASYNC_WORK": "true",
        # work without a language model is done in an instant: leave people the time to watch it
        "CHAT_PACE_SECONDS": "0.6",
        "UPLOADS_BUCKET": BUCKET,
        # a file and not moto's KMS, which forgets its keys when it stops
        "SEALING_KEY_FILE": str(state / "sealing.json"),
    }


def for_children(values: Mapping[str, str], inherited: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of the stack's own processes.

    Of the launcher's environment only what a process needs to run at all is passed on, so that a
    developer's real AWS or Supabase account is never reached from here; `LOG_LEVEL`, vendor
    settings and their like may be overridden.
    """
    passed = {
        name: value
        for name, value in inherited.items()
        if name in {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TERM", "USER", "TZ"}
        or name in {"LOG_LEVEL", "WORKER_CONCURRENCY", "USE_MOCK_APOLLO", "APOLLO_BASE_URL"}
        or name.startswith(("REALTIME_", "LANGUAGE_MODEL", "SPEECH_", "MUX_", "FFMPEG_", "CHAT_"))
        or name == "ENABLE_ASYNC_WORK"
    }
    return {
        **values,
        **passed,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
        "LITE_TELEMETRY": "0",
        "PYTHONUNBUFFERED": "1",
    }
