"""A real PgBouncer in front of Postgres, on a port that does not reveal its pooling mode."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg

from supabase_local.ports import reserve_port
from tests.support.patience import until

#: The id of the user without rights on Linux.
UNPRIVILEGED = 65534


@cache
def program() -> str:
    """Return the path of PgBouncer, which on Debian may be outside of a user's PATH."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    assert found, "pgbouncer is missing: apt-get install pgbouncer, as .ci/run does"
    return found


@contextmanager
def pooled(database_url: str, folder: Path, *, mode: str, sessions: int) -> Iterator[str]:
    """Yield the address of a pooler in this mode, which signs in as `database_url` does.

    Args:
        sessions: Maximum connections that the pooler opens.
    """
    target, port = urlsplit(database_url), reserve_port()
    name = target.path.lstrip("/")
    lines = [
        "[databases]",
        f"{name} = host={target.hostname} port={target.port} dbname={name}"
        f" user={target.username} password='{unquote(target.password or '')}'",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        f"pool_mode = {mode}",
        f"default_pool_size = {sessions}",
        "ignore_startup_parameters = extra_float_digits,options",
    ]
    if os.geteuid() == 0:  # PgBouncer refuses to run as root
        lines.append(f"user = {pwd.getpwuid(UNPRIVILEGED).pw_name}")
    config = folder / f"pgbouncer-{port}.ini"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen([program(), str(config)], stdout=log, stderr=subprocess.STDOUT)
    url = f"postgresql://{target.username}:any@127.0.0.1:{port}/{name}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        until(answers, seconds=30)
        yield url
    finally:
        process.terminate()
        process.wait(30)
