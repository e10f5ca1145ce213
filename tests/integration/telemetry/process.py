"""A process that runs the project's functions on events from its input, as Lambda does.

Each input line is an event. The process writes the response's status for each.
"""

import asyncio
import json
import os
import sys
from importlib import import_module
from typing import Any

from minutehand import telemetry
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker.testing import ProcessorTest
from tests.support.lambda_events import LambdaContext


async def work() -> str:
    """Run one attempt of the project's own processor inside the middleware."""
    settings = Settings.from_env(os.environ)
    telemetry.start(settings.environ, version=settings.version)
    kind = next(iter(load_processors(settings)))
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
