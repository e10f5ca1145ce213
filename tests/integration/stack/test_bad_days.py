"""Failures in a project while jobs are enqueued and run: parts that die, hang or fill up.

A thread enqueues through the Data API and repeats calls without a response, as a caller would. A
worker in another process runs the jobs. No enqueued job is lost, and each ends once. The number of
jobs that ran twice is printed, because a job runs at least once.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.integration.serve.test_serve import served
from tests.integration.stack.test_dying import answers, children
from tests.support.engine import ACME, CLOCK
from tests.support.patience import until
from tests.support.stacks import RunningStack, end, launch, wait_ready

pytestmark = [pytest.mark.stack, pytest.mark.weekly(only=True)]

JOBS, BULK = 10_000, 100
#: Duration of a fault, in seconds.
SECONDS = 15
SMALL_BYTES = 2 << 30


@dataclass
class Day:
    """A stack, a replaceable worker, and the enqueued jobs."""

    stack: RunningStack
    folder: Path
    open: ExitStack
    #: The small file system with the database's files.
    disk: Path
    ids: list[str] = field(default_factory=list)
    worker: subprocess.Popen[bytes] | None = None

    def work(self) -> None:
        """Start a worker, which takes over the jobs of a killed one."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        process = served(self.stack, folder, DATABASE_URL=self.stack.database_url)
        _, self.worker = self.open.enter_context(process)

    def enqueue(self, is_third: threading.Event) -> None:
        """Enqueue all jobs, repeating each bulk until there is a response."""
        headers = self.stack.headers(apikey=self.stack.supabase_secret_key)
        url = f"{self.stack.supabase_url}/rest/v1/rpc/enqueue_jobs"
        for number in range(0, JOBS, BULK):
            items = [
                {"job_type": "served.greet", "payload": {"name": str(n)}, "max_attempts": 20}
                | {"idempotency_key": uuid.uuid4().hex}
                for n in range(BULK)
            ]
            body = {"p_workspace_id": ACME, "p_jobs": items, "p_return": "ids"}

            def answered(body: dict[str, Any] = body) -> list[str] | None:
                try:
                    answer = httpx.post(url, json=body, headers=headers, timeout=20)
                except httpx.TransportError:
                    return None
                return list(answer.json()["ids"]) if answer.is_success else None

            self.ids += until(answered, seconds=600)
            if number >= JOBS // 3:
                is_third.set()

    def left(self) -> int | None:
        """Return the number of unfinished jobs, or None while the database does not respond."""
        query = "select count(*) from public.jobs where finished_at is null and job_type = %s"
        try:
            with self.stack.connect(connect_timeout=5) as connection:
                [(count,)] = connection.execute(query, ("served.greet",)).fetchall()
        except psycopg.Error:
            return None
        return int(count)

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.stack.connect() as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []


def dies(part: str) -> Callable[[Day], None]:
    """A part is killed, and the launcher restarts it."""

    def kill(day: Day) -> None:
        before = children(day.stack.launcher)[part]
        before.kill()
        until(lambda: children(day.stack.launcher).get(part, before) != before)
        until(lambda: answers(f"{day.stack.supabase_url}/_ready"))

    return kill


def worker_dies(day: Day) -> None:
    assert day.worker is not None
    day.worker.kill()
    day.run("update queue.leases set expires_at = queue.clock() where true")
    day.work()


def network_freezes(day: Day) -> None:
    """The Data API accepts connections but does not respond."""
    gateway = children(day.stack.launcher)["gateway"]
    gateway.send_signal(signal.SIGSTOP)
    threading.Event().wait(SECONDS)
    gateway.send_signal(signal.SIGCONT)


def no_connection_is_left(day: Day) -> None:
    with ExitStack() as held:
        with suppress(psycopg.OperationalError):
            for _ in range(1000):
                held.enter_context(psycopg.connect(day.stack.database_url))
        threading.Event().wait(SECONDS)


def clock_steps(day: Day) -> None:
    """An hour ahead, then an hour behind, then correct."""
    for seconds in (3600, -3600):
        day.run(CLOCK.format(seconds=seconds))
        threading.Event().wait(SECONDS)
    [kept] = day.run("select pg_get_functiondef('queue.clock'::regproc)")
    assert "interval" in kept[0]
    day.run(CLOCK.format(seconds=0))


def statements_time_out(day: Day) -> None:
    """Every statement is cancelled after a second."""
    day.run("alter database postgres set statement_timeout = '1s'")
    end_all = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    day.run(end_all)
    threading.Event().wait(SECONDS)
    day.run("alter database postgres reset statement_timeout")
    day.run(end_all)


def disk_fills(day: Day) -> None:
    """The disk is full, and later has room again."""
    ballast = day.disk / "ballast"
    with ballast.open("wb") as file, suppress(OSError):
        while True:
            file.write(b"\0" * (1 << 20))
    threading.Event().wait(SECONDS)
    ballast.unlink()
    until(lambda: day.left() is not None)


TROUBLES: dict[str, Callable[[Day], None]] = {
    "the worker dies": worker_dies,
    "statements time out": statements_time_out,
    "the clock steps": clock_steps,
    **{f"{part} dies": dies(part) for part in ("postgres", "gateway", "realtime", "api", "aws")},
    "the network freezes": network_freezes,
    "no connection is left": no_connection_is_left,
    "the disk fills": disk_fills,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningStack, Path]]:
    """A stack for these tests, with its database on a small file system."""
    folder = tmp_path_factory.mktemp("bad-days")
    with small_disk(folder) as disk:
        launcher = launch(folder, "--no-demo")
        try:
            yield wait_ready(folder, launcher), disk
        finally:
            end(folder, launcher)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in memory for the database of a stack in `folder`. Needs root."""
    disk = Path(tempfile.mkdtemp(prefix="minutehand-small-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES},mode=711", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        (folder / "postgres.location").write_text(f"{disk}\n")
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
        shutil.rmtree(disk, ignore_errors=True)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_no_job_is_lost(place: tuple[RunningStack, Path], tmp_path: Path, trouble: str) -> None:
    stack, disk = place
    with ExitStack() as opened:
        day = Day(stack, tmp_path, opened, disk)
        day.work()
        is_third = threading.Event()
        enqueuing = threading.Thread(target=day.enqueue, args=[is_third])
        enqueuing.start()
        assert is_third.wait(600)

        TROUBLES[trouble](day)

        enqueuing.join(900)
        # No job waits for a dead worker or for a step of the clock.
        until(lambda: day.left() == 0, seconds=900)
        counted = "count(*), count(*) filter (where attempts > 1)"
        [(done, twice)] = day.run(
            f"select {counted} from public.jobs where id = any (%s) and status = 'completed'",
            day.ids,
        )
    print(f"{trouble}: {JOBS} jobs, {JOBS - done} lost, {twice} ran twice")
    assert len({*day.ids}) == done == JOBS
