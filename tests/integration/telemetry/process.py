"""A process that runs the project's functions on events from its input, as Lambda does.

Each input line is an event. The process writes the response's status for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from importlib import import_module
from typing import Any

from minutehand.config import Settings
from minutehand.functions.worker.app import build_worker
from minutehand.worker.testing import ProcessorTest
from tests.support.lambda_events import LambdaContext


async def work() -> str:
    """Run one attempt of the project's own processor inside the middleware."""
    kind = next(iter(build_worker(Settings.from_env(os.environ)).registry))
    test: ProcessorTest[Any] = ProcessorTest(
        lambda job, ctx: None, {}, around=kind.around, job_type=kind.name
    )
    return (await test.run()).outcome


for line in sys.stdin:
    event = json.loads(line)
    function = event.pop("function")
    if function == "work":
        status = asyncio.run(work())
    else:
        module = import_module(f"minutehand.functions.{function}.handler")
        status = module.handler(event, LambdaContext())["statusCode"]
    print(json.dumps([status]), flush=True)
