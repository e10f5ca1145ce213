"""A worker finds out what its DATABASE_URL supports, and changes nothing there.

The tests use a real PgBouncer in each mode.
"""

import asyncio
import logging
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from infra.bench.scratch import scratch_settings
from minutehand.config import Settings
from minutehand.functions.worker.database_access import DatabaseAccess, find_database_access
from minutehand.queue.connection_probe import AddressProbe, probe
from supabase_local.ports import reserve_port
from tests.support.patience import until
from tests.support.renewed import Renewed

#: The id of the user without rights on Linux.
UNPRIVILEGED = 65534
OWN = AddressProbe(sessions=True, notifications=True, role=True)
#: The expected result of the probe, by PgBouncer's mode and its number of sessions.
MODES: list[tuple[str, int, AddressProbe]] = [
    ("session", 20, OWN),
    ("transaction", 20, AddressProbe()),
    ("transaction", 1, AddressProbe()),
    ("statement", 20, AddressProbe()),
]


@contextmanager
def pooled(database_url: str, folder: Path, *, mode: str, sessions: int) -> Iterator[str]:
    """Yield the address of a PgBouncer in this mode, which signs in as `database_url` does.

    The port does not reveal the mode.

    Args:
        sessions: Maximum connections that the pooler opens.
    """
    # On Debian, the program may be outside of a user's PATH.
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "pgbouncer is missing: apt-get install pgbouncer, as .ci/run does"
    target, port = urlsplit(database_url), reserve_port()
    name = target.path.lstrip("/")
    credentials = f"user={target.username} password='{unquote(target.password or '')}'"
    # PgBouncer refuses to run as root.
    user = f"user = {pwd.getpwuid(UNPRIVILEGED).pw_name}" if os.geteuid() == 0 else ""
    config = folder / "pgbouncer.ini"
    config.write_text(f"""
[databases]
{name} = host={target.hostname} port={target.port} {credentials}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {sessions}
ignore_startup_parameters = extra_float_digits,options
{user}
""")
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([program, config], stdout=log, stderr=subprocess.STDOUT)
    url = f"postgresql://{target.username}:any@127.0.0.1:{port}/{name}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        with suppress(psycopg.OperationalError):
            psycopg.connect(url, connect_timeout=2).close()
            return True
        return False

    try:
        until(answers)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(("mode", "sessions", "expected"), MODES)
def test_what_an_address_keeps_is_asked_of_it(
    renewed: Renewed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    mode: str,
    sessions: int,
    expected: AddressProbe,
) -> None:
    """The worker's probe finds whether the address keeps sessions and notifications.

    It leaves the role of PgBouncer's sessions unchanged.
    """
    with pooled(renewed.url, tmp_path, mode=mode, sessions=sessions) as url:
        settings = scratch_settings(environ={"DATABASE_URL": url})
        access = asyncio.run(call_if_direct(settings))
        roles = set()
        for _ in range(sessions):
            with closing(psycopg.connect(url, autocommit=True, prepare_threshold=None)) as session:
                roles.update(session.execute("select current_user").fetchall())

    with caplog.at_level(logging.INFO):
        access.log()

    assert access.probe == expected
    record = caplog.records[-1]
    assert record.__dict__["event"] == "worker.address"
    assert record.__dict__["sessions"] is expected.sessions
    assert ("transaction mode" in record.getMessage()) is (expected != OWN)
    assert roles == {(urlsplit(renewed.url).username,)}
    assert asyncio.run(probe(renewed.url)) == OWN


async def call_if_direct(settings: Settings) -> DatabaseAccess:
    """Probe the address, and call a function over it if it keeps sessions."""
    access = await find_database_access(settings)
    if api := access.api(settings):
        await api.rpc("queue_health", {}, headers={}, repeatable=True)
        await api.aclose()
    return access


def test_a_role_that_may_not_become_the_workers_is_named(renewed: Renewed) -> None:
    """The probe reports a database user that may not become the role `job_worker`."""
    renewed.run("create role address_test login password 'p'")
    port = urlsplit(renewed.url).port
    stranger = asyncio.run(probe(f"postgresql://address_test:p@127.0.0.1:{port}/{renewed.name}"))
    renewed.run("drop role address_test")

    assert (stranger.role, stranger.sessions) == (False, True)
    assert stranger.fault
    assert stranger.fault[0] == "logs in as a role that may not become job_worker"
