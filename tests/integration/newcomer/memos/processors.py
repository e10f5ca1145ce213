"""The job: read the note, have the weather forecast, a model write it up, and store a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import BaseModel

from minutehand.ai.engines import make_language_model
from minutehand.ai.in_job import ask_for
from minutehand.ai.language_model import Material, Prompt
from minutehand.aws.bucket import UploadsBucket
from minutehand.config import Settings
from minutehand.worker import Job, JobContext, Registry, Stage
from minutehand.worker.remote import RemoteFailed, RemoteTask


class Memo(BaseModel):
    """An upload's key and title."""

    key: str
    title: str


class Summary(BaseModel):
    """What the model is to say."""

    headline: str
    points: list[str]


@dataclass(frozen=True)
class Forecaster:
    """A service that takes its time: as `ctx.remote` asks for it."""

    name: str

    async def submit(self, *, left: float) -> str:
        """Have it begin."""
        return str((await self._call("POST", self.name))["id"])

    async def poll(self, task_id: str) -> RemoteTask:
        """Ask how far it is."""
        return RemoteTask((await self._call("GET", f"{self.name}/{task_id}"))["state"])

    async def result(self, task_id: str) -> str:
        """Fetch the forecast."""
        return str((await self._call("GET", f"{self.name}/{task_id}"))["weather"])

    async def cancel(self, task_id: str) -> None:
        """Ask it to stop."""
        await self._call("DELETE", f"{self.name}/{task_id}")

    async def _call(self, method: str, url: str) -> Any:
        try:
            async with httpx.AsyncClient() as http:
                return (await http.request(method, url)).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise RemoteFailed(str(error)) from error


def register(registry: Registry, settings: Settings) -> None:
    """Add the processor, over one process's clients."""
    bucket = UploadsBucket(settings)
    model = make_language_model(settings)

    async def memo(job: Job[Memo], ctx: JobContext) -> dict[str, Any]:
        async def read(_: Mapping[str, Any]) -> str:
            content = await bucket.read(job.payload.key)
            if content is None:
                raise FileNotFoundError(job.payload.key)
            return content.decode()

        async def look_up(_: Mapping[str, Any]) -> str:
            services = [Forecaster(url) for url in settings.environ["WEATHER_URLS"].split()]
            return await ctx.remote("weather", services, within=60)

        async def write(given: Mapping[str, Any]) -> dict[str, Any]:
            ctx.progress(60, "write", "Writing it up")
            prompt = Prompt(
                "memo",
                "Write up this note: a headline and its points.",
                [Material("note", given["read"]), Material("weather", given["look_up"])],
            )
            return (await ask_for(ctx, model, prompt, Summary)).model_dump()

        ctx.progress(10, "read", "Reading the note")
        made = await ctx.graph(
            [
                Stage(name="read", run=read),
                Stage(name="look_up", run=look_up, tries=3),
                Stage(name="write", run=write, after=["read", "look_up"]),
            ]
        )
        return Summary.model_validate(made["write"]).model_dump()

    registry.processor("memo", payload=Memo)(memo)
