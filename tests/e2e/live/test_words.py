"""Pages with the oldest and the newest supported supabase-js while the network changes.

The client, the Data API, Auth and Realtime are real.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Any

import pytest

from infra.release.supabase_cli import fetch
from minutehand.local.users import ADA
from minutehand.node import node_binary
from tests.e2e.console.worker import HandWorker
from tests.e2e.live.wire import Wire
from tests.support.engine import Json, piece
from tests.support.paths import ROOT
from tests.support.patience import until
from tests.support.stacks import RunningStack, children

pytestmark = pytest.mark.timeout(600)

DRIVER = Path(__file__).parent / "js" / "session.mjs"


def values(said: list[Json], key: str) -> list[Any]:
    """Return the values of a key in the lines of a page."""
    return [line[key] for line in said if key in line]


class Pages:
    """Two pages in one Node process, and the lines that each page printed."""

    def __init__(self, process: asyncio.subprocess.Process, wire: Wire, lease: Json) -> None:
        self.said: tuple[list[Json], list[Json]] = ([], [])
        self.wire, self.lease = wire, lease
        self._process = process
        self._commands = 0

    async def until(self, is_it: Callable[[list[Json]], object]) -> None:
        """Read lines until those of each page match."""
        assert self._process.stdout is not None
        async with asyncio.timeout(120):
            while not all(map(is_it, self.said)):
                line = json.loads(await self._process.stdout.readline())
                self.said[line.pop("page")].append(line)

    async def do(self, name: str, **arguments: Any) -> None:
        """Send a command to the pages, and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps({'name': name, **arguments})}\n".encode())
        self._commands += 1
        await self.until(lambda said: len(values(said, "done")) == self._commands)

    async def are(self, *words: str) -> None:
        """Wait until the freshness of each page's job and list is one of these."""
        await self.until(lambda said: {*(values(said, "freshness") or [["none"]])[-1]} <= {*words})

    async def last(self, key: str) -> list[Any]:
        """Return the latest value of a key on each page. Wait if there is none yet."""
        await self.until(lambda said: values(said, key))
        return [values(said, key)[-1] for said in self.said]

    async def end_with(self, events: list[int]) -> None:
        """Wait for the job's end. Check that each event arrived once and in order."""
        await self.last("ended")
        assert [values(said, "event") for said in self.said] == [events, events]


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker that the test controls."""
    with HandWorker(stack, stack.demo_workspace_id) as hand:
        yield hand


@pytest.fixture(scope="session")
def libraries() -> list[str]:
    """The oldest and the newest supabase-js that the package supports.

    The two versions are the start of the package's range and this project's own dependency, fetched
    once per machine.
    """
    package = json.loads((ROOT / "infra/console/npm/package.json").read_text())
    oldest = package["peerDependencies"]["@supabase/supabase-js"].removeprefix("^")
    ours = json.loads((ROOT / "package.json").read_text())
    newest = ours["devDependencies"]["@supabase/supabase-js"]
    name = "npm:@supabase/supabase-js"
    modules = fetch(
        f"supabase-js-{oldest}-{newest}", f"oldest@{name}@{oldest}", f"newest@{name}@{newest}"
    )
    packages = [modules / each for each in ("oldest", "newest")]
    return [str(one / json.loads((one / "package.json").read_text())["main"]) for one in packages]


@pytest.fixture
async def pages(
    stack: RunningStack, worker: HandWorker, libraries: list[str]
) -> AsyncIterator[Pages]:
    """Two live pages of Ada that watch a leased job through one proxy."""
    job, lease = await asyncio.to_thread(worker.start)
    async with Wire(int(stack.supabase_url.rsplit(":", 1)[1])) as wire:
        key = stack.supabase_publishable_key
        process = await asyncio.create_subprocess_exec(
            str(node_binary()),
            str(DRIVER),
            json.dumps({"url": wire.url, "key": key, "libraries": libraries}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=64 * 1024 * 1024,
        )
        opened = Pages(process, wire, lease)
        try:
            await opened.do("in", email=ADA.email, password=stack.demo_password)
            await opened.do("watch", job=job, workspace=stack.demo_workspace_id)
            await opened.are("live")
            yield opened
        finally:
            process.kill()
            await process.communicate()


async def test_a_token_that_cannot_be_renewed_discards_nothing(
    pages: Pages, worker: HandWorker
) -> None:
    """A page that wakes with an expired token while Auth is down does not sign the user out."""
    await pages.do("block", part="/auth/v1/token")
    await pages.do("sleep", seconds=3700)
    await pages.are("catching-up")
    await asyncio.to_thread(worker.report, pages.lease, 50)
    await pages.until(lambda said: 3 in values(said, "event"))
    await pages.do("block", part=None)
    await pages.are("live")
    await asyncio.to_thread(worker.settle, pages.lease, result={"n": 1})
    await pages.end_with([1, 2, 3, 4])


class Speaker:
    """Writes a job's output stream as a worker does."""

    def __init__(self, worker: HandWorker, lease: Json) -> None:
        self.text = ""
        self._worker, self._lease, self._chance = worker, lease, random.Random(85)
        self._attempt = 0

    def begin(self) -> None:
        """Begin the output stream, or begin it again without its content."""
        self._attempt += 1
        self.text = ""
        self.say("")

    def say(self, text: str) -> None:
        """Append a text."""
        said = piece(text, len(self.text), attempt=self._attempt)
        assert self._worker.report(self._lease, None, "a line", output=[said]) == "ok"
        self.text += text

    def speak(self, times: int) -> None:
        """Append short texts, and sometimes one that is too long for a message."""
        for _ in range(times):
            size = 9000 if self._chance.random() < 0.05 else self._chance.randint(1, 12)
            self.say("".join(self._chance.choices("abc äöü€ 🌍\n", k=size)))

    def end(self) -> None:
        """Complete the job. Its settlement contains the last output."""
        said = piece(" the end", len(self.text), attempt=self._attempt)
        self.text += " the end"
        self._worker.settle(self._lease, result={}, output=[said])


#: For each disturbance: the freshness that a page reports during it. It is empty if a page cannot
#: notice the disturbance.
TROUBLES = {
    "no budget": (),
    "gateway": (),
    "stopped": ("polling",),
    "killed": ("polling", "catching-up", "live"),  # a page may not notice this disturbance
    "black hole": ("offline",),
}


@contextmanager
def broken(stack: RunningStack, wire: Wire, trouble: str) -> Iterator[None]:
    """Disturb Realtime, its message rate or the network for a while."""
    wire.is_hole = trouble == "black hole"
    parts = children(stack)
    name = "realtime_messages_per_second"
    give = f"select public.set_settings(jsonb_build_object('{name}', %s::jsonb))"
    with stack.connect() as connection:
        if trouble == "no budget":
            connection.execute(give, ("1",))
        if trouble in {"stopped", "killed"}:
            parts["realtime"].send_signal(SIGSTOP if trouble == "stopped" else SIGKILL)
        if trouble == "gateway":
            parts["gateway"].kill()
        try:
            yield
        finally:
            connection.execute(give, ('"pro"',))
            if trouble == "stopped":
                parts["realtime"].send_signal(SIGCONT)
    if trouble == "gateway":
        until(lambda: children(stack).get(trouble, parts[trouble]) != parts[trouble])
    wire.is_hole = False


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_every_reader_has_every_event_and_character(
    stack: RunningStack, worker: HandWorker, pages: Pages, trouble: str
) -> None:
    """Each reader gets each event and character once and in order.

    This holds while Realtime stops, dies or delivers nothing. Output of a dead attempt is
    discarded.
    """
    speaker = Speaker(worker, pages.lease)
    await asyncio.to_thread(speaker.begin)
    await asyncio.to_thread(speaker.speak, 5)
    with broken(stack, pages.wire, trouble):
        await asyncio.to_thread(speaker.speak, 20)
        await asyncio.to_thread(speaker.begin)
        if TROUBLES[trouble]:
            await pages.are(*TROUBLES[trouble])
    if TROUBLES[trouble]:
        await pages.are("live")
    await asyncio.to_thread(speaker.speak, 20)
    await asyncio.to_thread(speaker.end)

    written = "select seq from job_events where job_id = %s order by seq"
    await pages.end_with(worker.rows(written, pages.lease["job"]["id"]))
    assert await pages.last("words") == [{"reply": speaker.text}] * 2
    assert await pages.last("read") == [speaker.text] * 2
