"""A worker of this room's project, to be killed from outside."""

from __future__ import annotations

import asyncio
import os

from shared.apps.training.processors import register
from shared.config import Settings
from shared.worker import Registry, TickOptions, Worker


async def main() -> None:
    """Tick until killed."""
    settings = Settings.from_env(os.environ)
    registry = Registry()
    register(registry, settings)
    worker = Worker(
        settings,
        registry=registry,
        options=TickOptions(concurrency=4, linger_seconds=0, grace_seconds=0.3),
    )
    await worker.register()
    while True:
        await worker.tick(budget_seconds=60)
        await asyncio.sleep(0.05)


if __name__ == "__main__":
    asyncio.run(main())
