"""Pages with the oldest and the newest supported supabase-js while users sign in and out.

The client, the Data API, Auth and Realtime are real. test_words.py tests outages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from infra.release.supabase_cli import fetch
from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.people import EVE
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.wire import Wire
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

DRIVER = Path(__file__).parent / "js" / "session.mjs"


class Page:
    """A Node process that acts as a page with a client, and its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, stack: RunningStack, url: str, library: Path) -> Self:
        """Start the process. It does not follow a job or a list yet."""
        key = stack.supabase_publishable_key
        request = {"url": url, "key": key, "library": str(library)}
        process = await asyncio.create_subprocess_exec(
            str(node_binary()),
            str(DRIVER),
            json.dumps(request),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        return cls(process)

    async def says(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for the next output line that matches."""
        assert self._process.stdout is not None
        async with asyncio.timeout(120):
            while line := await self._process.stdout.readline():
                self.said.append(json.loads(line))
                if is_it(self.said[-1]):
                    return self.said[-1]
        raise AssertionError(f"it ended: {self.said[-20:]}")

    async def shows(self, is_it: Callable[[dict[str, Any], dict[str, Any]], bool]) -> None:
        """Wait until the states of the job and the list match."""

        def is_so(_: object = None) -> bool:
            return is_it(self.shown("job"), self.shown("list"))

        if not is_so():
            await self.says(is_so)

    async def is_fresh(self, *words: str) -> None:
        """Wait until the freshness of both the job and the list is one of these."""
        await self.shows(lambda *both: {one["freshness"] for one in both} <= set(words))

    def shown(self, of: str) -> dict[str, Any]:
        """Return the shown rows of the job or the list."""
        nothing = {"of": of, "freshness": None, "missing": None, "problem": None}
        return next((one for one in reversed(self.said) if one.get("of") == of), nothing)

    async def does(self, name: str, **values: Any) -> None:
        """Send a command to the page and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps({'name': name, **values})}\n".encode())
        await self.says(lambda said: said.get("done") == name)

    async def last(self, key: str) -> Any:
        """Return the value of the latest line with a key. Wait if there is none yet."""
        found = [said for said in self.said if key in said]
        return (found[-1] if found else await self.says(lambda said: key in said))[key]

    @property
    def events(self) -> list[int]:
        """Return the sequence numbers of the events that the page received."""
        return [said["event"] for said in self.said if "event" in said]

    async def close(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


class Pages:
    """Two pages with the oldest and the newest supabase-js. Each command goes to both."""

    def __init__(self, pages: list[Page]) -> None:
        self.pages = pages

    async def all(self, act: Callable[[Page], Awaitable[object]]) -> None:
        """Send a command to both pages, or wait for both."""
        await asyncio.gather(*(act(page) for page in self.pages))

    async def are(self, *words: str) -> None:
        """Wait until the freshness on both pages is one of these."""
        await self.all(lambda page: page.is_fresh(*words))

    async def end_with(self, events: list[int]) -> None:
        """Wait for the job's end. Check that each event arrived once and in order."""
        await self.all(lambda page: page.last("ended"))
        assert [page.events for page in self.pages] == [events, events]


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker that the test controls."""
    with HandWorker(stack, stack.demo_workspace_id) as hand:
        yield hand


@pytest.fixture(scope="session")
def libraries() -> list[Path]:
    """The oldest and the newest supabase-js that the package supports.

    The two versions are the start of the package's range and this project's own dependency, fetched
    once per machine.
    """
    package = json.loads((ROOT / "infra/console/npm/package.json").read_text("utf-8"))
    oldest = package["peerDependencies"]["@supabase/supabase-js"].removeprefix("^")
    ours = json.loads((ROOT / "package.json").read_text("utf-8"))
    newest = ours["devDependencies"]["@supabase/supabase-js"]
    name = "npm:@supabase/supabase-js"
    modules = fetch(
        f"supabase-js-{oldest}-{newest}", f"oldest@{name}@{oldest}", f"newest@{name}@{newest}"
    )
    packages = [modules / each for each in ("oldest", "newest")]
    return [one / json.loads((one / "package.json").read_text())["main"] for one in packages]


@asynccontextmanager
async def pages_of(
    stack: RunningStack, worker: HandWorker, libraries: list[Path]
) -> AsyncIterator[tuple[Pages, Wire, dict[str, Any]]]:
    """Open two live pages of Ada through one proxy. Also yield the lease of the watched job."""
    job = await asyncio.to_thread(worker.enqueue)
    lease = await asyncio.to_thread(worker.lease_soon)
    async with Wire(int(stack.supabase_url.rsplit(":", 1)[1])) as wire:
        each = [await Page.open(stack, wire.url, library) for library in libraries]
        pages = Pages(each)
        try:
            await pages.all(lambda page: sign_in(page, stack, ADA.email))
            watched = {"job": job, "workspace": stack.demo_workspace_id}
            await pages.all(lambda page: page.does("watch", **watched))
            await pages.are("live")
            yield pages, wire, lease
        finally:
            for page in each:
                await page.close()


async def sign_in(page: Page, stack: RunningStack, email: str) -> None:
    """Sign in as a demo user."""
    await page.does("in", email=email, password=stack.demo_password)


async def test_another_user_is_shown_nothing_of_the_first(
    stack: RunningStack, worker: HandWorker, libraries: list[Path]
) -> None:
    """After Ada signs out, Eve signs in on the same page and sees none of Ada's data.

    Ada returns and has missed nothing. Late messages to Ada arrive while Eve's channel is joining.
    """
    async with pages_of(stack, worker, libraries) as (pages, wire, lease):

        async def changes(page: Page) -> None:
            await page.does("out")
            since[page] = len(page.said)
            await sign_in(page, stack, EVE.email)
            await page.does("await", joining=True)

        async def shows_nothing(page: Page) -> None:
            await page.does("await", joining=False)
            await page.shows(lambda job, rows: job["missing"] and bool(rows["problem"]))
            given = ("shown", "event", "listed", "words", "read")
            assert [x for x in page.said[since[page] :] if any(map(x.get, given))] == []

        since: dict[Page, int] = {}
        wire.hold()
        piece = {"stream": "reply", "attempt": 1, "start": 0, "text": "Ada's"}
        await asyncio.to_thread(worker.report, lease, 50, output=[piece])
        await pages.all(changes)
        wire.let_go()
        await pages.all(shows_nothing)
        await pages.all(lambda page: sign_in(page, stack, ADA.email))
        await pages.are("live")
        await asyncio.to_thread(worker.settle, lease, result={"n": 1})
        await pages.end_with([1, 2, 3, 4])


async def test_a_token_that_cannot_be_renewed_discards_nothing(
    stack: RunningStack, worker: HandWorker, libraries: list[Path]
) -> None:
    """A page that wakes with an expired token while Auth is down does not sign the user out."""
    async with pages_of(stack, worker, libraries) as (pages, _, lease):
        await pages.all(lambda page: page.does("block", part="/auth/v1/token"))
        await pages.all(lambda page: page.does("sleep", seconds=3700))
        await pages.are("catching-up")
        await asyncio.to_thread(worker.report, lease, 50)
        await pages.all(lambda page: page.says(lambda said: said.get("event") == 3))
        await pages.all(lambda page: page.does("block", part=None))
        await pages.are("live")
        await asyncio.to_thread(worker.settle, lease, result={"n": 1})
        await pages.end_with([1, 2, 3, 4])
