"""The greetings app's processors."""

from __future__ import annotations

from typing import Any

from minutehand.apps.greetings.models import SendGreetings
from minutehand.worker import Backoff, Job, JobContext, processor


@processor(
    "greetings.send",
    payload=SendGreetings,
    timeout=120,
    backoff=Backoff(first=60, cap=3600),
)
async def send_greetings(job: Job[SendGreetings], ctx: JobContext) -> dict[str, Any]:
    """Greet by name; a retry resumes after the last finished step."""
    ctx.progress(10, "start")

    async def greet() -> str:
        return f"Hello, {job.payload.name}!"

    greeting = await ctx.step("greet", greet)
    ctx.log("info", "Greeting written", length=len(greeting))
    ctx.progress(100, "done")
    return {"greeting": greeting}
