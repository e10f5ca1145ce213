"""Workers in processes of their own, to be killed in the middle of what they do.

Run as a module it is such a worker.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker import TickOptions, Worker
from tests.support.project import Project

ROOT = Path(__file__).resolve().parents[2]


class Killable:
    """Worker processes of a project, started and killed one after the other; none outlives it."""

    def __init__(
        self,
        project: Project,
        *apps: str,
        **environment: str | None,
    ) -> None:
        """Prepare workers.

        Args:
            apps: Names of the apps they know, folders of `shared/minutehand_apps`.
            environment: What they read besides the project's place and keys.
        """
        self.process: subprocess.Popen[bytes] | None = None
        self._project = project
        self._command = [sys.executable, "-m", "tests.support.killable"]
        self._environment = environment_of(project, *apps, **environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start one."""
        self.process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """SIGKILL, and let the leases it held expire at once instead of in a minute."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.process = None
        self._project.expire()


def environment_of(project: Project, *apps: str, **more: str | None) -> dict[str, str]:
    """What a worker process of the project reads, with the apps it is to know."""
    return {
        "SUPABASE_URL": project.settings.supabase_url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "STAGE": "local",
        "MINUTEHAND_SCHEMA": project.settings.schema_name,
        "MINUTEHAND_APPS": ",".join(f"minutehand_apps.{app}" for app in apps),
        **{name: value for name, value in more.items() if value is not None},
    }


async def until(condition: Callable[[], Any], *, seconds: float = 120.0) -> None:
    """Wait for something another process brings about."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        await asyncio.sleep(0.02)


async def main() -> None:
    """Tick until killed."""
    settings = Settings.from_env(os.environ)
    worker = Worker(
        settings,
        registry=load_processors(settings),
        options=TickOptions(concurrency=5, linger_seconds=0, grace_seconds=0.3),
    )
    await worker.register()
    while True:
        await worker.tick(budget_seconds=60)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
