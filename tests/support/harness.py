"""A harness for an example app: its API, called as a user, and a worker that tests run."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar

import httpx
import uvicorn
from httpx_sse import EventSource

from infra.bench.scratch import PUBLISHABLE_KEY, user_token
from minutehand.config import Settings
from minutehand.worker import Registry, TickOptions, Worker
from minutehand.worker.testing import drain
from tests.support.engine import ADA, Json
from tests.support.project import Project

Register = Callable[..., Any]
Seen = TypeVar("Seen")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(240):
        while not condition():  # noqa: ASYNC110 - no event announces the condition
            await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task
        listening.close()


class AppHarness:
    """An app's API, and a worker that runs when a test runs it. Each app's tests add methods."""

    #: The prefix of the paths that `call` gets.
    below = ""

    def __init__(
        self, project: Project, settings: Settings, register: Register, app: Any, **options: Any
    ) -> None:
        self.project = project
        self.settings = settings
        registry = Registry()
        self._app = register(registry, settings, app=app)
        self.worker = Worker(
            settings, registry=registry, options=TickOptions(linger_seconds=0, **options)
        )
        from minutehand.functions.jobs.app import build_app  # slow, and `until` does not need it

        # Only the app's own routes are added, and tried first, because other routes take long to
        # add.
        own = type(self._app).__module__.rpartition(".")[0]
        self._api = build_app(settings.model_copy(update={"apps": (own,)}))
        self._api.router.routes.reverse()
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self._api), base_url="http://api.test"
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        try:
            async with self._api.router.lifespan_context(self._api):
                await self.worker.register()
                yield self
        finally:
            # Stop the worker after the API, which may still wake it.
            for each in (self._http, self.worker, self._app):
                await each.aclose()

    async def call(
        self, method: str, path: str, *, user: str | None = ADA, **options: Any
    ) -> httpx.Response:
        """Call the API as a user, by default Ada. With None, call it without a token."""
        headers = dict(options.pop("headers", {}))
        if user is not None:
            headers["Authorization"] = f"Bearer {user_token(user)}"
        return await self._http.request(method, self.below + path, headers=headers, **options)

    async def ok(self, method: str, path: str, **options: Any) -> Any:
        """Call the API, and return its response, which must not be an error."""
        answer = await self.call(method, path, **options)
        assert answer.status_code < 300, answer.text
        return answer.json()

    async def stream(
        self, path: str, *, user: str | None = ADA, **headers: str
    ) -> list[tuple[str, Json]]:
        """Return the ids and events of an event stream until it ends."""
        accepted = {"Accept": "text/event-stream", **headers}
        answer = await self.call("GET", path, user=user, headers=accepted)
        return [(one.id, one.json()) async for one in EventSource(answer).aiter_sse() if one.data]

    async def rest(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"apikey": PUBLISHABLE_KEY, "Authorization": f"Bearer {user_token()}"}
        async with httpx.AsyncClient(base_url=f"{self.settings.supabase_url}/rest/v1") as http:
            return await http.request(method, path, headers=headers, **options)

    async def tick_until(
        self, look: Callable[[], Awaitable[Seen]], reached: Callable[[Seen], Any]
    ) -> Seen:
        """Run the worker until `reached` accepts what `look` returns. Backoffs end immediately."""
        give_up = time.monotonic() + 280
        while time.monotonic() < give_up:
            await drain(self.worker)
            state = await look()
            if reached(state):
                return state
            self.project.make_due()
            await asyncio.sleep(0.02)  # expired leases are reclaimed only at intervals
        raise AssertionError(f"the expected state was not reached: {state}")
