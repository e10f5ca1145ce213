"""Random histories of people, tokens, sleep and outages in Chromium: no leak, no missed change.

A page has many clients of supabase-js. Each has its own proxy, and jobs of two tenants that run
meanwhile. Everything is real: the browser, the Data API, Auth, and the Realtime process,
which is stopped and killed under all of them. `make weekly` plays a thousand; SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import psutil
import pytest
from playwright.async_api import Page, async_playwright

from minutehand.local.users import DemoUser, create_demo_users
from tests.e2e.console.browsers import FLAGS, chromium
from tests.e2e.console.worker import HandWorker, delete
from tests.e2e.live.test_session import realtime_of
from tests.e2e.live.wire import Wire
from tests.support.stacks import RunningStack

pytestmark = [pytest.mark.stack, pytest.mark.browser, pytest.mark.timeout(3600)]

SCRIPT = Path(__file__).parent / "js" / "histories.js"
HISTORIES = int(os.environ.get("HISTORIES") or 1000)
SEED = os.environ.get("SEED") or "90"
#: Number of histories at a time on one page.
SEATS = 24

#: People and the owners of jobs that each may see. Ada and Bob share a tenant.
PEOPLE = ("ada", "bob", "eve")
SEEN = {"ada": ("ada", "bob"), "bob": ("ada", "bob"), "eve": ("eve",)}
KINDS = ("job", "list", "mine", "useJob", "useJobs", "element")
#: Steps of a history and their weights.
STEPS = {
    "speak": 6,
    "sign_in": 4,
    "mount": 4,
    "sign_out": 2,
    "unmount": 2,
    "heal": 3,
    "hole": 2,
    "close": 2,
    "cut": 1,
    "renew": 1,
    "be_refused": 1,
    "expire": 1,
}
#: Events that affect all histories of a page.
WEATHER = ("stopped", "killed", "offline", "asleep")


@dataclass
class Seat:
    """Three people and two tenants, which one history after another uses."""

    people: dict[str, DemoUser]
    workspaces: dict[str, str]

    @classmethod
    def make(cls, stack: RunningStack) -> Seat:
        """Create the people and tenants."""
        here, there = uuid4(), uuid4()
        of = {"ada": here, "bob": here, "eve": there}
        people = {
            name: DemoUser(
                uuid4(), f"{name}-{uuid4().hex[:12]}@histories.test", "manager", of[name]
            )
            for name in PEOPLE
        }
        create_demo_users(stack.database_url, people.values())
        with stack.connect() as connection:
            for workspace in (here, there):
                connection.execute(
                    "insert into public.workspaces (id, name) values (%s, 'Histories')", [workspace]
                )
            for person in people.values():
                connection.execute(
                    "insert into public.workspace_members (workspace_id, user_id, role)"
                    " values (%s, %s, 'manager')",
                    [person.workspace_id, person.id],
                )
        return cls(people, {name: str(of[name]) for name in PEOPLE})

    def delete(self, stack: RunningStack) -> None:
        """Delete the people and tenants."""
        ids = list(set(self.workspaces.values()))
        delete(stack, "delete from public.workspaces where id = any(%s::uuid[])", ids)
        users: list[UUID] = [person.id for person in self.people.values()]
        delete(stack, "delete from auth.users where id = any(%s)", users)


@dataclass
class Spoken:
    """A running job and the length of its output."""

    lease: dict[str, Any]
    secret: str
    words: str = ""
    reports: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def id(self) -> str:
        """Id of the job."""
        return str(self.lease["job"]["id"])


class History:
    """History of one client of the page and its proxy."""

    def __init__(
        self, scene: Scene, n: int, seat: Seat, wire: Wire, jobs: dict[str, Spoken], seed: str
    ) -> None:
        self.scene, self.n, self.seat, self.wire, self.jobs = scene, n, seat, wire, jobs
        self.chance = random.Random(seed)
        self.did: list[str] = []
        self._names = (f"{n}-{serial}" for serial in count())
        self._mounted: list[str] = []

    @property
    def opening(self) -> dict[str, Any]:
        """Return the arguments with which the page starts the history."""
        stack = self.scene.stack
        people = {name: str(person.id) for name, person in self.seat.people.items()}
        jobs = {
            name: {
                "id": job.id,
                "secret": job.secret,
                "owner": name,
                "seen": SEEN[name],
                "workspace_id": self.seat.workspaces[name],
            }
            for name, job in self.jobs.items()
        }
        key = stack.supabase_publishable_key
        return {
            "name": f"history-{self.n}",
            "url": self.wire.url,
            "key": key,
            "people": people,
            "jobs": jobs,
        }

    async def ask(self, name: str, *values: Any) -> Any:
        """Call a method of the history in the page."""
        called = "([n, name, values]) => histories.call(n, name, ...values)"
        return await self.scene.page.evaluate(called, [self.n, name, list(values)])

    async def live(self, steps: int) -> None:
        """Run a number of random steps."""
        await self.mount()
        await self.sign_in()
        for _ in range(steps):
            [step] = self.chance.choices(list(STEPS), list(STEPS.values()))
            self.did.append(step)
            await getattr(self, step)()
            await asyncio.sleep(self.chance.uniform(0, 0.5))

    async def speak(self) -> None:
        """Report output of some of the jobs."""
        for name, job in self.jobs.items():
            if self.chance.random() < 0.7:
                await asyncio.to_thread(self.scene.speak, job)
                await self.ask("said", name, len(job.words))

    async def sign_in(self, name: str | None = None, how: str = "in") -> None:
        """Sign in as someone, even while another person is signed in."""
        name = name or self.chance.choice(PEOPLE)
        self.did.append(name)
        email = self.seat.people[name].email
        await self.ask(how, name, email, self.scene.stack.demo_password)

    async def sign_out(self) -> None:
        """Sign out."""
        await self.ask("out")

    async def renew(self) -> None:
        """Renew the token."""
        await self.ask("renew")

    async def be_refused(self) -> None:
        """Try to renew the token, which Auth rejects."""
        await self.ask("refused")

    async def expire(self) -> None:
        """Expire the token, either really or only by its stored date."""
        claims = {"sub": "x", "exp": 1, "role": "authenticated"}
        token = jwt.encode(claims, self.scene.stack.supabase_jwt_secret, algorithm="HS256")
        await self.ask("expired", token if self.chance.random() < 0.5 else None)

    async def mount(self) -> None:
        """Mount a view."""
        name = next(self._names)
        self._mounted.append(name)
        kind, subject = self.chance.choice(KINDS), self.chance.choice(PEOPLE)
        self.did.append(f"{kind} of {subject}")
        await self.ask("mount", name, kind, subject)

    async def unmount(self) -> None:
        """Unmount a view."""
        if self._mounted:
            name = self._mounted.pop(self.chance.randrange(len(self._mounted)))
            await self.ask("unmount", name)

    async def hole(self) -> None:
        """Make the network pass nothing."""
        self.wire.is_hole = True
        self.wire.fall_silent()

    async def close(self) -> None:
        """Make the server refuse connections."""
        self.wire.closed = True
        self.wire.cut()

    async def cut(self) -> None:
        """Close the connections."""
        self.wire.cut()

    async def heal(self) -> None:
        """Restore the network."""
        self.wire.heal()

    async def settled(self, name: str) -> float:
        """Wait until all views are correct for the signed-in person. Returns the time in ms."""
        truth = await asyncio.to_thread(self._truth)
        took = await self.ask("settled", name, truth)
        return float(took)

    def _truth(self) -> dict[str, Any]:
        ids = {name: job.id for name, job in self.jobs.items()}
        users = {str(person.id): name for name, person in self.seat.people.items()}
        with self.scene.stack.connect() as connection:
            rows = connection.execute(
                "select id::text, workspace_id::text, status::text, user_id::text, last_seq, result"
                " from public.jobs where workspace_id = any(%s::uuid[])"
                " order by created_at desc, id desc",
                [list(self.seat.workspaces.values())],
            ).fetchall()
        listed = [
            {"id": id, "workspace_id": workspace, "status": status, "user": users[user]}
            for id, workspace, status, user, _, _ in rows
        ]
        found = {row[0]: row for row in rows}
        return {
            name: {
                "status": found[id][2],
                "last_seq": found[id][4],
                "result": found[id][5],
                "words": self.jobs[name].words,
                "rows": listed,
            }
            for name, id in ids.items()
        }


class Scene:
    """One page with its histories, and a client that sees when messages have arrived."""

    def __init__(self, stack: RunningStack, worker: HandWorker, page: Page, seed: str) -> None:
        self.stack, self.worker, self.page = stack, worker, page
        self.chance = random.Random(seed)
        self.seed = seed
        self.histories: list[History] = []
        self.took: list[float] = []

    @asynccontextmanager
    async def open(self, seats: list[Seat]) -> AsyncIterator[None]:
        """Open a history per seat, and one more without steps."""
        port = int(self.stack.supabase_url.rsplit(":", 1)[1])
        jobs = await asyncio.to_thread(self._begin, seats)
        async with AsyncExitStack() as ends:
            for n, (seat, theirs) in enumerate(zip(seats, jobs, strict=True)):
                wire = await ends.enter_async_context(Wire(port, seed=n))
                seed = f"{self.seed}-{n}"
                self.histories.append(History(self, n, seat, wire, theirs, seed))
            opened = [history.opening for history in self.histories]
            await self.page.evaluate("(all) => histories.open(all)", opened)
            yield

    def _begin(self, seats: list[Seat]) -> list[dict[str, Spoken]]:
        secrets = {}
        for n, seat in enumerate(seats):
            for name in PEOPLE:
                secret = f"only-{SEEN[name]}-{n}-{uuid4().hex[:8]}".replace("'", "")
                values = {
                    "p_workspace_id": seat.workspaces[name],
                    "p_jobs": [{"job_type": self.worker.job_type, "payload": {"says": secret}}],
                }
                token = self.stack.token(str(seat.people[name].id))
                made = self.worker._call("enqueue_jobs", values, self.stack.headers(token))
                secrets[made["jobs"][0]["job"]["id"]] = (n, name, secret)
        jobs: list[dict[str, Spoken]] = [{} for _ in seats]
        for lease in self.worker.lease(len(secrets)):
            n, name, secret = secrets[lease["job"]["id"]]
            jobs[n][name] = Spoken(lease, secret)
        return jobs

    def speak(self, job: Spoken) -> None:
        """Report progress, a log line and output of a job."""
        report = next(job.reports)
        said = {"stream": "reply", "attempt": 1, "start": len(job.words)}
        words = f"{job.secret} {report} "
        progress = {"percentage": report % 100, "message": job.secret}
        output = [{**said, "text": words}]
        done = self.worker.report(job.lease, None, job.secret, progress=progress, output=output)
        assert done == "ok"
        job.words += words

    async def weather(self) -> None:
        """Run an event that affects all histories."""
        for kind in self.chance.sample(WEATHER, 2):
            await asyncio.sleep(self.chance.uniform(0.2, 1.5))
            lasts = self.chance.uniform(0.3, 2)
            if kind == "offline":
                await self.page.context.set_offline(True)
                await asyncio.sleep(lasts)
                await self.page.context.set_offline(False)
            elif kind == "asleep":
                await self._sleep(lasts)
            else:
                with realtime_of(self.stack) as realtime:
                    realtime.send_signal(signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
                    await asyncio.sleep(lasts)

    async def _sleep(self, lasts: float) -> None:
        """Freeze the page, and advance its clock when it wakes."""
        await self.page.evaluate("histories.skip(20_000)")
        renderers = []
        for one in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # a renderer of an earlier page may be ending
                if "--type=renderer" in one.cmdline():
                    renderers.append(one)
        try:
            for one in renderers:
                with suppress(psutil.NoSuchProcess):
                    one.suspend()
            await asyncio.sleep(lasts)
        finally:
            for one in renderers:
                with suppress(psutil.NoSuchProcess):
                    one.resume()

    async def all(self, act: Any) -> list[Any]:
        """Call a method of all histories at the same time."""
        return list(await asyncio.gather(*(act(history) for history in self.histories)))

    async def play(self) -> None:
        """Run the histories from the first sign-in to the end."""
        await asyncio.gather(
            self.weather(), *(history.live(steps=10) for history in self.histories)
        )
        await self.all(lambda one: one.heal())
        await self.is_settled()
        await self.all(lambda one: one.sign_out())
        await self.all(lambda one: one.ask("rest"))
        await self.all(lambda one: one.ask("quiet"))
        await asyncio.to_thread(self._end_jobs)
        await self.all(lambda one: one.ask("stayedQuiet"))
        await self.is_settled()
        await self.all(lambda one: one.ask("close"))

    async def is_settled(self) -> None:
        """Sign in, and check that the views show everything visible to the person and no more."""

        async def settle(history: History) -> None:
            name = history.chance.choice(PEOPLE)
            await history.sign_in(name, "surely")
            self.took.append(await history.settled(name))

        await self.all(settle)

    def _end_jobs(self) -> None:
        for history in self.histories:
            for job in history.jobs.values():
                self.speak(job)
                self.worker.settle(job.lease, result={"says": job.secret})


@pytest.fixture
def worker(stack: RunningStack) -> Iterator[HandWorker]:
    """A worker that the test controls."""
    with HandWorker(stack, stack.demo_workspace_id) as hand:
        yield hand


@pytest.fixture
def seats(stack: RunningStack) -> Iterator[list[Seat]]:
    """Seats for all histories."""
    made = [Seat.make(stack) for _ in range(min(SEATS, HISTORIES))]
    yield made
    for seat in made:
        seat.delete(stack)


@pytest.mark.weekly(only=True)
async def test_random_histories_show_nothing_foreign_and_miss_nothing(
    stack: RunningStack, worker: HandWorker, seats: list[Seat]
) -> None:
    """Once the network is back, each watch is live and has delivered each event once and in order.

    A watch that reports `live` has all output from before its topic was joined. From the moment in
    which supabase-js reports another user, no callback, render or frame shows anything that the
    user may not read. In the end no topic is joined.

    The test has its own browser, because the browser and the proxies must share an event loop.
    """
    took: list[float] = []
    thrown: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for scene_number in range(0, HISTORIES, SEATS):
            context = await browser.new_context(base_url=stack.api_url, bypass_csp=True)
            page = await context.new_page()
            page.on("pageerror", lambda error: thrown.append(str(error)))
            await page.route("**/app.js", lambda route: route.fulfill(path=SCRIPT))
            await page.goto("/histories")
            await page.wait_for_function("globalThis.histories")
            scene = Scene(stack, worker, page, f"{SEED}-{scene_number}")
            async with scene.open(seats[: HISTORIES - scene_number]):
                await scene.play()
            wrong = await page.evaluate("histories.wrong()")
            did = {n: history.did for n, history in enumerate(scene.histories)}
            assert (wrong, thrown) == ([], []), (scene.seed, did)
            took += scene.took
            await context.close()
        await browser.close()
    took.sort()
    print(f"{HISTORIES} histories, back after {took[len(took) // 2]:.0f} to {took[-1]:.0f} ms")
