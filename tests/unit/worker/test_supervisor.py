"""When a supervised worker hangs, and which of its jobs is to blame; `serve` has real processes."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from minutehand.clock import FrozenClock
from minutehand.config import Settings
from minutehand.functions.worker.child import CHANNEL, _answer
from minutehand.functions.worker.routes import Reply, Request, WorkerRoutes
from minutehand.functions.worker.supervisor import (
    CHECK_SECONDS,
    MARGIN_SECONDS,
    SILENT_SECONDS,
    Began,
    Supervisor,
    _cause,
    _culprit,
    _end,
)
from minutehand.log import current_request_id
from minutehand.queue.models import JobId, SettleItem
from minutehand.queue.worker_client import WorkerQueue
from tests.support.virtual_time import leaping


def began(function: str = "work", *, at: float = 0.0, timeout: float | None = 10.0) -> Began:
    return Began(
        job_id=function, fence=1, job_type="t", timeout_seconds=timeout, grace_seconds=5.0,
        module="app", file="app.py", function=function, at=at,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("timeout", "silent", "runs", "hangs"),
    [
        (None, SILENT_SECONDS + 1, True, True),
        (None, SILENT_SECONDS - 1, True, False),
        (None, SILENT_SECONDS + 1, False, False),  # nothing would be gained by its end
        (10.0, 15.0 + MARGIN_SECONDS - 0.1, True, False),  # within its grace
        (10.0, 15.0 + MARGIN_SECONDS + 0.1, True, True),
    ],
)
def test_a_worker_hangs_that_is_silent_or_late_with_a_job(
    timeout: float | None, silent: float, runs: bool, hangs: bool
) -> None:
    """A kill costs each of its jobs the work so far."""
    clock = FrozenClock()
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    supervisor = Supervisor(settings, "app", {}, clock=clock)
    now = clock.monotonic()
    job = began(at=now, timeout=timeout)
    child: Any = SimpleNamespace(beat_at=now, running={("work", 1): job} if runs else {})

    clock.advance(seconds=silent)

    assert supervisor._hangs(child) is hangs


def test_the_job_on_the_loops_stack_is_to_blame_before_one_in_a_thread() -> None:
    """And where none is on a stack, the one that is the longest past its time."""
    late, blocks, threaded = began("late"), began("blocks", at=5.0), began("threaded", at=5.0)
    running = [threaded, blocks, late]
    thread = [("app.py", 3, "threaded")]
    loop = [("base_events.py", 1, "run_forever"), ("app.py", 7, "blocks")]

    assert _culprit(running, [thread, loop], 20.0) == (blocks, loop)
    assert _culprit(running, [thread], 20.0) == (threaded, thread)
    assert _culprit(running, [], 20.0) == (late, [])


#: Takes one command and dies with an attempt; started again, it takes another.
DYING = f"""
import json, os, sys
from pathlib import Path

def say(**event):
    os.write(int(os.environ["{CHANNEL}"]), json.dumps(event).encode() + b"\\n")

taken = Path(os.environ["TAKEN"])
is_first = not taken.exists()
say(ready=True)
line = sys.stdin.readline()
taken.open("a").write(line)
if is_first:
    say(began={{
        "job_id": "j", "fence": 1, "job_type": "t", "timeout_seconds": None, "grace_seconds": 5,
        "module": "app", "file": "app.py", "function": "work",
    }})
    os._exit(1)
sys.stdin.readline()
"""


async def test_a_worker_that_dies_leaves_neither_a_request_nor_a_job_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is asked to come back, and the next worker leases what was given back."""
    (tmp_path / "dying.py").write_text(DYING)
    taken = tmp_path / "taken"
    settled: list[SettleItem] = []

    async def settle(_: Supervisor, items: list[SettleItem]) -> None:
        settled.extend(items)

    monkeypatch.setattr(Supervisor, "_settle", settle)
    monkeypatch.setattr(Supervisor, "READY_SECONDS", 60)
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    environ = {"PYTHONPATH": str(tmp_path), "TAKEN": str(taken)}
    supervisor = Supervisor(settings, "dying", environ)
    supervisor.start()

    async with asyncio.timeout(60):
        reply = await supervisor.answer(Request("GET", "/", {}, b"", None))
        while len(taken.read_text().splitlines()) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await supervisor.aclose(timeout_seconds=60)

    assert reply.status == 503
    assert [(item.job_id, item.outcome) for item in settled] == [("j", "retry")]
    assert '"wake": "restart"' in taken.read_text().splitlines()[1]


async def test_a_crash_is_charged_to_the_job_that_it_happened_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ran beside it is given back, without an attempt."""
    settled: list[SettleItem] = []

    async def settle(_: Supervisor, items: list[SettleItem]) -> None:
        settled.extend(items)

    monkeypatch.setattr(Supervisor, "_settle", settle)
    stacks = tmp_path / "stacks"
    stacks.write_text('Current thread 0x1 (first):\n  File "app.py", line 7 in crashes\n')
    running = {(name, 1): began(name) for name in ("beside", "crashes")}
    settings = Settings(supabase_url="http://x.test", supabase_publishable_key="k")
    process = SimpleNamespace(returncode=-11)
    child: Any = SimpleNamespace(process=process, stacks=stacks, running=running, resident_mb=0)

    await Supervisor(settings, "app", {})._bury(child)

    assert {item.job_id: item.outcome for item in settled} == {
        "crashes": "retry", "beside": "released"
    }  # fmt: skip
    assert len(settled) == 2
    [error] = [item.error for item in settled if item.error is not None]
    assert error.traceback is not None
    assert [frame["line"] for frame in error.traceback["frames"]] == [7]


SETTINGS = Settings(supabase_url="http://127.0.0.1:9", supabase_publishable_key="k")


def child_of(**fields: Any) -> Any:
    """A process that answers to no one."""
    usual = {"running": {}, "answers": {}, "ready": asyncio.Event(), "resident_mb": 0}
    return SimpleNamespace(**(usual | {"kills_for_memory": 0} | fields))


class Noting(Supervisor):
    """Keeps what it would settle."""

    def __init__(self, **options: Any) -> None:
        super().__init__(SETTINGS, "app", {}, **options)
        self.settled: list[SettleItem] = []

    async def _settle(self, items: list[SettleItem]) -> None:
        self.settled += items


@pytest.mark.parametrize(
    ("is_ready", "started_at"),
    [(True, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (False, [0, 2, 5, 10, 19, 36, 67, 98])],
)
def test_a_worker_that_does_not_start_is_started_ever_less_often(
    tmp_path: Path, is_ready: bool, started_at: list[float]
) -> None:
    """One that was at work is replaced at once; none leaves its file of stacks behind."""
    stacks: list[Path] = []
    starts: list[float] = []

    class Dying(Noting):
        async def _start(self) -> Any:
            starts.append(asyncio.get_running_loop().time())
            stacks.append(tmp_path / str(len(stacks)))
            stacks[-1].touch()
            channel = asyncio.StreamReader()
            channel.feed_eof()
            child = child_of(channel=channel, stacks=stacks[-1])
            if is_ready:
                child.ready.set()
            return child

        async def _hung(self, child: Any) -> bool:
            await asyncio.sleep(1)
            return False

        async def _bury(self, child: Any) -> None:
            """No one is left."""

    async def story() -> None:
        supervisor = Dying()
        keeping = asyncio.create_task(supervisor._keep())
        await asyncio.sleep(started_at[-1] + 0.5)
        keeping.cancel()
        await asyncio.wait({keeping})

    leaping(story())

    assert starts == started_at
    assert not any(path.exists() for path in stacks)


class Children(Noting):
    """Starts these, one after another, each a second after it was asked for."""

    def __init__(self, *children: Any) -> None:
        super().__init__()
        self.children = iter(children)

    async def _start(self) -> Any:
        await asyncio.sleep(1)
        return next(self.children)


def test_what_a_worker_said_last_counts_for_the_jobs_that_it_leaves(tmp_path: Path) -> None:
    """Its end is often known before its last lines are read; who has ended is left alone."""
    fields = {
        "fence": 1, "job_type": "t", "timeout_seconds": None, "grace_seconds": 5,
        "module": "app", "file": "app.py", "function": "work",
    }  # fmt: skip
    said: list[Any] = [{"began": {"job_id": name, **fields}} for name in ("ended", "left")]
    said.append({"ended": {"job_id": "ended", "fence": 1}})

    class Ended(Children):
        async def _hung(self, child: Any) -> bool:
            return False

    async def story() -> None:
        channel, stacks = asyncio.StreamReader(), tmp_path / "stacks"
        stacks.touch()
        channel.feed_data(b"".join(json.dumps(line).encode() + b"\n" for line in said))
        channel.feed_eof()
        supervisor = Ended(
            child_of(channel=channel, stacks=stacks, process=SimpleNamespace(returncode=1))
        )
        keeping = asyncio.create_task(supervisor._keep())
        await asyncio.sleep(1.9)
        keeping.cancel()
        await asyncio.wait({keeping})
        assert [(item.job_id, item.outcome) for item in supervisor.settled] == [("left", "retry")]

    leaping(story())


def test_a_request_between_two_workers_is_the_next_ones(tmp_path: Path) -> None:
    """The one that has ended would never answer it."""

    class Ending(Children):
        async def _hung(self, child: Any) -> bool:
            await asyncio.sleep(1)
            return True

    async def story() -> None:
        pipes = [Pipe(), Pipe()]
        children = [
            child_of(
                channel=asyncio.StreamReader(),
                stacks=tmp_path / "stacks",
                process=SimpleNamespace(stdin=pipe),
            )
            for pipe in pipes
        ]
        for child in children:
            child.ready.set()
        supervisor = Ending(*children)
        keeping = asyncio.create_task(supervisor._keep())
        await asyncio.sleep(2.5)
        asking = asyncio.create_task(supervisor.answer(Request("GET", "/", {}, b"", "r")))
        await asyncio.sleep(1)
        assert [len(pipe.lines) for pipe in pipes] == [0, 1]
        for task in (keeping, asking):
            task.cancel()
        await asyncio.wait({keeping, asking})

    leaping(story())


@pytest.mark.parametrize(("hangs", "ended_at"), [(True, CHECK_SECONDS), (False, 100)])
def test_a_worker_is_watched_to_its_end_which_comes_at_once_where_it_hangs(
    hangs: bool, ended_at: float
) -> None:
    class Watching(Noting):
        def _hangs(self, child: Any) -> bool:
            return hangs

        async def _kill(self, child: Any) -> None:
            child.ended.set()

    async def story() -> tuple[bool, float]:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.call_later(100, ended.set)
        child = child_of(process=SimpleNamespace(wait=ended.wait))
        child.ended = ended
        return await Watching()._hung(child), loop.time()

    killed, at = leaping(story())
    assert (killed, at) == (hangs, ended_at)


async def test_a_worker_that_hangs_is_killed_for_the_job_that_blocks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That one has failed its attempt; those beside it are given back without one."""
    clock = FrozenClock()
    clock.advance(seconds=40)
    killed: list[bool] = []
    running = {(name, 1): began(name, at=9.0) for name in ("beside", "blocks")}
    process = SimpleNamespace(kill=lambda: killed.append(True))
    supervisor = Noting(clock=clock)

    async def stacks(_: Any) -> list[list[tuple[str, int, str]]]:
        return [[("base_events.py", 1, "run_forever"), ("app.py", 7, "blocks")]]

    monkeypatch.setattr(supervisor, "_stacks", stacks)
    await supervisor._kill(child_of(process=process, running=running))

    assert killed == [True]
    assert {item.job_id: item.outcome for item in supervisor.settled} == {
        "blocks": "retry", "beside": "released"
    }  # fmt: skip
    [error] = [item.error for item in supervisor.settled if item.error is not None]
    assert (error.type, error.message) == (
        "AttemptTimeout",
        "the attempt ran past 10 s: it blocked its worker for 31 s at app.py:7, which was killed",
    )
    assert {item.duration_ms for item in supervisor.settled} == {31_000}


@pytest.mark.parametrize(
    ("code", "kills", "memory", "said"),
    [
        (1, 0, 0, "its worker ended with exit code 1"),
        (None, 0, 0, "its worker ended with exit code None"),
        (-11, 0, 0, "its worker was ended by SIGSEGV"),
        (-9, 1, 512, "its worker was killed for want of memory (512 MB in use)"),
        (
            -9, 0, 512,
            "its worker was killed by signal 9, most often for want of memory (512 MB in use),",
        ),
        (-9, 1, 0, "its worker was killed for want of memory"),
    ],
)  # fmt: skip
def test_an_end_has_its_cause(code: int | None, kills: int, memory: int, said: str) -> None:
    """The kernel counts whom it kills for memory; a kill by a person is counted nowhere."""
    assert _cause(code, child_of(resident_mb=memory), kills) == said
    before = child_of(kills_for_memory=1)
    assert "most often" in _cause(-9, before, 1), "another process was killed, earlier"


async def test_jobs_that_cannot_be_settled_are_left_to_their_leases(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away with the worker does not end its supervisor, nor is it held open."""
    closed: list[WorkerQueue] = []
    close = WorkerQueue.aclose

    async def aclose(queue: WorkerQueue) -> None:
        closed.append(queue)
        await close(queue)

    monkeypatch.setattr(WorkerQueue, "aclose", aclose)
    supervisor = Supervisor(SETTINGS.model_copy(update={"supabase_jwt_secret": "s"}), "app", {})

    await supervisor._settle([SettleItem(job_id=JobId("j"), fence=1, outcome="released")])

    assert [getattr(record, "event", "") for record in caplog.records] == ["worker.not_buried"]
    assert len(closed) == 1


async def test_a_worker_that_does_not_end_by_itself_is_killed() -> None:
    """A host that stops waits for no processor."""
    process = await asyncio.create_subprocess_exec("sleep", "600", stdin=asyncio.subprocess.PIPE)

    await _end(process, 0.05)

    assert process.returncode == -signal.SIGKILL


class Pipe:
    """A worker's input."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def is_closing(self) -> bool:
        return False

    def write(self, line: bytes) -> None:
        self.lines.append(json.loads(line))


def answered_by(child: Any) -> Noting:
    supervisor = Noting()
    supervisor._child = child
    supervisor._started.set()
    return supervisor


def test_a_request_is_the_workers_to_answer_once_it_is_ready() -> None:
    """Whole, and forgotten with its answer."""

    async def story() -> None:
        pipe = Pipe()
        child = child_of(process=SimpleNamespace(stdin=pipe))
        supervisor = answered_by(child)
        request = Request("POST", "/api/jobs/process", {"a": "b"}, b"\xff", "r")
        asking = [asyncio.create_task(supervisor.answer(request)) for _ in range(2)]
        await asyncio.sleep(5)
        assert pipe.lines == []
        child.ready.set()
        await asyncio.sleep(0.1)

        first, second = pipe.lines
        assert first["ask"] == {
            "method": "POST", "path": "/api/jobs/process", "headers": {"a": "b"},
            "body": "/w==", "request_id": "r",
        }  # fmt: skip
        for number, line in enumerate((second, first)):
            child.answers[line["number"]].set_result(Reply(200 + number, {}))
        assert [(await each).status for each in asking] == [201, 200]
        assert child.answers == {}

    leaping(story())


def test_a_caller_is_asked_to_come_back_where_no_worker_is_ready_in_time() -> None:
    async def story() -> tuple[Reply, float]:
        reply = await answered_by(child_of()).answer(Request("GET", "/", {}, b"", "r"))
        return reply, asyncio.get_running_loop().time()

    reply, at = leaping(story())

    assert (reply.status, reply.headers, at) == (503, {"Retry-After": "2"}, 10)
    assert (reply.body["code"], reply.body["request_id"]) == ("worker_unavailable", "r")


async def test_the_workers_side_answers_the_whole_request_by_its_number() -> None:
    """Headers included: a refusal says what to send, and when to come back."""
    asked: list[tuple[Request, str | None]] = []
    said: list[dict[str, Any]] = []

    class Routes(WorkerRoutes):
        def __init__(self) -> None:
            """Nothing to work with."""

        async def answer(self, request: Request, **_: Any) -> Reply:
            asked.append((request, current_request_id()))
            return Reply(401, {"code": "unauthorized"}, {"WWW-Authenticate": "Bearer"})

    ask = {"method": "POST", "path": "/p", "headers": {"a": "b"}, "body": "/w==", "request_id": "r"}
    channel: Any = SimpleNamespace(say=lambda **event: said.append(event))
    await _answer(Routes(), {"ask": ask, "number": 7}, channel)

    assert asked == [(Request("POST", "/p", {"a": "b"}, b"\xff", "r"), "r")]
    reply = {
        "status": 401,
        "body": {"code": "unauthorized"},
        "headers": {"WWW-Authenticate": "Bearer"},
    }
    assert said == [{"reply": reply, "number": 7}]


async def test_a_worker_is_woken_where_there_is_one() -> None:
    pipe = Pipe()
    supervisor = answered_by(child_of(process=SimpleNamespace(stdin=pipe)))

    await supervisor.wake(reason="enqueue")
    supervisor._child = None
    await supervisor.wake()

    assert pipe.lines == [{"wake": "enqueue"}]
