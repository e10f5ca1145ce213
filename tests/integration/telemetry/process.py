"""A process that runs the project's functions on events from its input, as Lambda does.

Each input line is an event. The process writes the response's status for each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from minutehand.config import Settings
from minutehand.functions.health.app import build_app as build_health
from minutehand.functions.jobs.app import build_app as build_jobs
from minutehand.functions.on_lambda import GatewayHandler
from minutehand.functions.status.app import build_app as build_status
from minutehand.functions.worker.app import build_worker
from minutehand.worker.testing import ProcessorTest
from tests.support.lambda_events import LambdaContext

settings = Settings.from_env(os.environ)
handlers: dict[str, Any] = {
    "jobs": GatewayHandler(build_jobs(settings)),
    "status": GatewayHandler(build_status(settings)),
    "health": GatewayHandler(build_health(settings)),
}


def work() -> dict[str, Any]:
    """Run one attempt of the project's own processor inside the middleware."""

    async def run() -> str:
        kind = next(iter(build_worker(settings).registry))
        test: ProcessorTest[Any] = ProcessorTest(
            lambda job, ctx: None, {}, around=kind.around, job_type=kind.name
        )
        return (await test.run()).outcome

    return {"statusCode": asyncio.run(run())}


for line in sys.stdin:
    event = json.loads(line)
    function = event.pop("function")
    answer = work() if function == "work" else handlers[function](event, LambdaContext())
    print(json.dumps([answer["statusCode"]]), flush=True)
