"""A worker in a process of its own, as the benchmarks and the chaos run start it.

Reads the environment of `Scratch.environment`; arguments say how it works.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import uvloop

from infra.bench.processors import bench_registry
from minutehand.config import Settings
from minutehand.local.worker import listen
from minutehand.log import configure_logging
from minutehand.worker import TickOptions, Worker


async def main(argv: list[str]) -> int:
    """Run the loop until SIGTERM, or until a tick finds nothing with `--drain`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--concurrency", type=int, default=5)
    parser.add_argument("--drain", action="store_true")
    parser.add_argument("--log-level", default="WARNING")
    options = parser.parse_args(argv)
    configure_logging(options.log_level, stream=sys.stderr)
    worker = Worker(
        Settings.from_env(os.environ),
        registry=bench_registry(),
        options=TickOptions(concurrency=options.concurrency, linger_seconds=0, quiet=True),
    )
    await worker.register()
    print("ready", flush=True)
    if options.drain:
        done = 0
        while (summary := await worker.tick()).leased:
            done += summary.completed
        print(done, flush=True)
        await worker.aclose()
        return 0
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    wakeups = asyncio.Event()
    listener = asyncio.create_task(listen(wakeups, os.environ["DATABASE_URL"]))
    await worker.run_forever(wakeups)
    listener.cancel()
    await worker.aclose()
    return 0


if __name__ == "__main__":
    sys.exit(uvloop.run(main(sys.argv[1:])))
