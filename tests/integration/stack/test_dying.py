"""What happens when a part of the stack, or its launcher, is killed without warning."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from minutehand.local.postgres import Postgres
from minutehand.local.processes import has_ended
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack, end, launch, wait_ready

pytestmark = pytest.mark.stack


def children(launcher: subprocess.Popen[bytes]) -> dict[str, psutil.Process]:
    """Find the launcher's children by what they run."""
    marks = {
        "postgres": "postgres",
        "gateway": "server.mjs",
        "realtime": "supabase_local.realtime",
        "api": "minutehand.local.api",
        "aws": "minutehand.local.aws",
    }
    found = {}
    for process in psutil.Process(launcher.pid).children():
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:  # a zombie, until the launcher looks at it
            continue
        for name, mark in marks.items():
            if any(word.endswith(mark) for word in words):
                found[name] = process
    return found


def eventually(holds: Callable[[], bool], *, seconds: float = 90.0) -> None:
    """Wait until `holds`; fail when it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Tell whether a server says 200."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_calls_in_flight_fail_at_once_when_postgres_dies(doomed: RunningStack) -> None:
    """A client that hung until its own timeout would hold its slot all that time."""
    with doomed.connect() as connection:
        connection.execute(
            "create or replace function public.scratch_sleep() returns text language sql"
            " as $$ select pg_sleep(60)::text $$;"
            " create or replace function public.scratch_known() returns int language sql"
            " as $$ select 1 $$;"
            " notify pgrst"
        )
    url = f"{doomed.supabase_url}/rest/v1/rpc/scratch_sleep"
    headers = doomed.headers(doomed.sign_in(doomed.demo_email))
    answered: list[int] = []
    known = f"{doomed.supabase_url}/rest/v1/rpc/scratch_known"
    eventually(lambda: httpx.post(known, headers=headers, json={}).is_success)

    def call() -> None:
        answered.append(httpx.post(url, headers=headers, json={}, timeout=40).status_code)

    def under_way() -> bool:
        return bool(answered) or connection.execute(running).fetchone() == (3,)

    running = (
        "select count(*) from pg_stat_activity"
        " where query like '%scratch_sleep%' and state = 'active' and pid <> pg_backend_pid()"
    )
    calls: list[threading.Thread] = []
    with doomed.connect() as connection:
        # a user's statement ends after eight seconds, perhaps before the last one has begun
        while not calls or answered:
            for thread in calls:
                thread.join()
            answered.clear()
            calls = [threading.Thread(target=call) for _ in range(3)]
            for thread in calls:
                thread.start()
            eventually(under_way)
    children(doomed.launcher)["postgres"].kill()
    for thread in calls:
        thread.join()  # one that hung would raise after its 40 seconds

    assert answered == [503, 503, 503]
    eventually(lambda: answers(f"{doomed.supabase_url}/_ready"))
    assert "postgres was killed by SIGKILL" in doomed.output()


def test_what_was_committed_survives_the_death_of_postgres(doomed: RunningStack) -> None:
    """The launcher starts it again by itself, and it recovers."""
    with doomed.connect() as connection:
        connection.execute("create table public.scratch_kept (n int)")
        connection.execute("insert into public.scratch_kept values (42)")
    before = children(doomed.launcher)["postgres"]

    before.kill()

    eventually(lambda: children(doomed.launcher).get("postgres", before) != before)
    eventually(lambda: answers(f"{doomed.supabase_url}/_ready"))
    eventually(lambda: kept(doomed) == (42,))


def kept(doomed: RunningStack) -> tuple[int] | None:
    """What was committed; None while Postgres recovers."""
    try:
        with doomed.connect() as connection:
            return connection.execute("select n from public.scratch_kept").fetchone()
    except psycopg.OperationalError:
        return None


@pytest.mark.parametrize("part", ["api", "gateway", "realtime", "aws"])
def test_a_part_that_is_killed_comes_back_and_the_stack_says_so(
    doomed: RunningStack, part: str
) -> None:
    """Healing in silence would hide a bug; not healing would end the developer's session."""
    victim = children(doomed.launcher)[part]
    before = len(doomed.output())

    victim.kill()

    eventually(lambda: f"{part} is back" in doomed.output()[before:])
    assert children(doomed.launcher)[part] != victim
    assert f"{part} was killed by SIGKILL" in doomed.output()[before:]
    eventually(lambda: answers(f"{doomed.api_url}/health"))


def test_nothing_outlives_a_killed_launcher_and_the_next_one_starts(tmp_path: Path) -> None:
    """Kill -9 leaves no time to clean up; the kernel and the next start do it."""
    launcher = launch(tmp_path, "--no-demo")
    try:
        before = wait_ready(tmp_path, launcher)
        with before.connect() as connection:
            connection.execute("create table public.scratch_kept ()")
        orphans = list(children(launcher).values())
        assert len(orphans) == 5

        launcher.kill()
        launcher.wait()

        eventually(lambda: all(has_ended(orphan) for orphan in orphans))
        launcher = launch(tmp_path, "--no-demo")
        after = wait_ready(tmp_path, launcher)
        with after.connect() as connection:
            row = connection.execute("select to_regclass('public.scratch_kept') is not null")
            assert row.fetchone() == (True,)
        assert after.supabase_jwt_secret == before.supabase_jwt_secret
    finally:
        end(tmp_path, launcher)


def test_a_second_launcher_is_sent_away(doomed: RunningStack) -> None:
    """Two launchers over one data folder would corrupt it."""
    second = subprocess.run(
        [sys.executable, "-m", "minutehand.local", "up", "--state", str(doomed.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert second.returncode == 3
    assert str(doomed.launcher.pid) in second.stdout
    assert answers(f"{doomed.api_url}/health")


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_every_child(tmp_path: Path, sign: signal.Signals) -> None:
    """Ctrl-C gives the machine back as it was, also in the middle of starting."""
    launcher = launch(tmp_path, "--no-demo")
    try:
        eventually(lambda: "gateway" in children(launcher))
        started = list(children(launcher).values())

        launcher.send_signal(sign)

        assert launcher.wait(120) == 0
        assert all(has_ended(process) for process in started)
        assert not (tmp_path / "ready").exists()
    finally:
        end(tmp_path, launcher)


def test_an_external_database_is_used_and_left_running(tmp_path: Path, postgres: Postgres) -> None:
    """DATABASE_URL names a server of the developer's own: it is brought up to date, not owned."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("create database external")
    url = postgres.url(database="external")
    launcher = launch(tmp_path, "--no-demo", DATABASE_URL=url)
    try:
        running = wait_ready(tmp_path, launcher)

        assert running.database_url == url
        assert "postgres" not in children(launcher)
        assert not (tmp_path / "postgres").exists()
        assert running.sign_in(running.demo_email)
    finally:
        end(tmp_path, launcher)
    with psycopg.connect(url) as connection:
        row = connection.execute("select count(*) > 0 from supabase_migrations.schema_migrations")
        assert row.fetchone() == (True,)
