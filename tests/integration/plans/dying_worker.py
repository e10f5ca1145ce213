"""A worker that dies by SIGKILL as soon as it has stored a finished stage; once a line it reads.

It forks before each run, so that a death costs no start of an interpreter.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from minutehand.apps.plans import pipeline  # noqa: F401 - imported before the fork
from minutehand.apps.plans.processors import register
from minutehand.apps.plans.services import Plans
from minutehand.apps.plans.store import WorkerStore
from minutehand.config import Settings
from minutehand.worker import Registry, TickOptions, Worker


class DyingStore(WorkerStore):
    """A store whose process does not outlive a finished stage."""

    async def report(self, job_id: str, fence: int, mark: str, news: Mapping[str, Any]) -> bool:
        """Store, and die if a stage was finished by it."""
        stored = await super().report(job_id, fence, mark, news)
        if any(stage["status"] == "completed" for stage in news["stages"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return stored


async def tick() -> None:
    """Run what is due."""
    settings = Settings.from_env(os.environ)
    app, registry = Plans(settings), Registry()
    app.__dict__["store"] = DyingStore(settings)
    register(registry, settings, app=app)
    options = TickOptions(concurrency=1, linger_seconds=0, grace_seconds=0.3)
    worker = Worker(settings, registry=registry, options=options)
    await worker.register()
    await worker.tick(budget_seconds=60)


def main() -> None:
    """Say `died` or `ended` for each run."""
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(tick())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("died" if os.WIFSIGNALED(status) else "ended", flush=True)


if __name__ == "__main__":
    main()
