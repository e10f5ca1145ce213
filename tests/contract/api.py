"""An HTTP server for a project's API routes, with a client and a command to call them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from infra.bench.scratch import user_token
from minutehand.functions.jobs.app import build_app as build_jobs
from minutehand.queue.client import QueueClient, UserQueue
from minutehand.web.services import Services, StreamTiming
from tests.support.command import Run
from tests.support.engine import ADA, Engine
from tests.support.harness import serving
from tests.support.project import Project


@dataclass
class Api:
    """The running API of a project, and the means to call it as a signed-in person."""

    project: Project
    engine: Engine
    url: str
    services: Services
    users: QueueClient
    http: httpx.AsyncClient

    async def call(
        self, method: str, path: str, *, user: str | None = ADA, **more: Any
    ) -> httpx.Response:
        """Send a request as `user`. If `user` is None, send the request without a token."""
        headers = dict(more.pop("headers", {}))
        if user:
            headers["authorization"] = f"Bearer {user_token(user)}"
        return await self.http.request(method, path, headers=headers, **more)

    def client(self, user: str = ADA) -> UserQueue:
        """Return the typed client of a person."""
        return self.users.acting_as(user_token(user))

    def environment(self, user: str = ADA) -> dict[str, str]:
        """Return the environment variables with which the `minutehand` command acts as a person."""
        settings = self.project.settings
        return {
            "API_URL": self.url,
            "SUPABASE_URL": settings.supabase_url,
            "SUPABASE_PUBLISHABLE_KEY": settings.supabase_publishable_key,
            "SCHEMA": settings.schema_name,
            "MINUTEHAND_TOKEN": user_token(user),
            "MINUTEHAND_ENV_FILE": "",
        }

    async def command(self, *line: str, user: str = ADA, code: int = 0) -> str:
        """Run the `minutehand` command as a person, and return its output."""
        run = Run(env=self.environment(user))
        result = await asyncio.to_thread(run, *line, "--json", code=code)
        return result.stdout + result.stderr


@asynccontextmanager
async def serving_api(
    project: Project, *, timing: StreamTiming | None = None
) -> AsyncIterator[Api]:
    """Serve a project's API. No worker runs, so a job runs only when the test runs it."""
    services = Services(project.settings, timing=timing)
    api = build_jobs(project.settings, services=services)
    engine = Engine(project.database, project.database.session())
    users = QueueClient(project.settings)
    async with serving(api) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        try:
            yield Api(project, engine, url, services, users, http)
        finally:
            await users.aclose()
            await services.aclose()
