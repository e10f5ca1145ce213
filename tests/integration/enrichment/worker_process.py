"""A worker in a process of its own, to be killed; run as a module.

The real wiring and the real second per offline call; it ticks until it is ended.
"""

from __future__ import annotations

import asyncio
import os

from minutehand.config import Settings
from minutehand.functions.worker.app import build_worker


async def main() -> None:
    """Tick until killed."""
    await build_worker(Settings.from_env(os.environ)).run_forever(poll_seconds=0.1)


if __name__ == "__main__":
    asyncio.run(main())
