"""Files of a stack that remain between runs, in `.local/`: the lock, secrets and the env file.

If the folder is deleted, only local data is lost.
"""

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path


class AlreadyRunning(Exception):
    """Another launcher has locked this folder of a stack."""


class StateFolder:
    """The folder with the files of one stack. Only the folder's owner may read the files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "logs").mkdir(parents=True, exist_ok=True)
        ignore = path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "utf-8")
        self._lock: int | None = None

    @property
    def env_file(self) -> Path:
        """File in dotenv format with the stack's URLs and keys, for tools."""
        return self.path / "env"

    @property
    def ready_file(self) -> Path:
        """File with the launcher's pid while all parts respond.

        After a kill -9 of the launcher the file is out of date.
        """
        return self.path / "ready"

    def lock(self) -> None:
        """Lock the folder until this process ends.

        Raises AlreadyRunning if another process has locked the folder.
        """
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            owner = os.read(lock, 32).decode().strip() or "unknown"
            os.close(lock)
            raise AlreadyRunning(
                f"A stack is already running in {self.path} (process {owner}). Stop it first, or "
                f"use it with the URLs in {self.env_file}."
            ) from held
        self.ready_file.unlink(missing_ok=True)  # a killed launcher leaves the file
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def secrets(self) -> Mapping[str, str]:
        """Read the keys of this stack.

        The first call creates the keys, so that tokens survive a restart.
        """
        path = self.path / "secrets.json"
        if path.exists():
            stored: dict[str, str] = json.loads(path.read_text())
            return stored
        keys = {
            "SUPABASE_PUBLISHABLE_KEY": f"sb_publishable_{secrets.token_urlsafe(18)}",
            "SUPABASE_SECRET_KEY": f"sb_secret_{secrets.token_urlsafe(24)}",
            "SUPABASE_JWT_SECRET": secrets.token_urlsafe(36),
        }
        write_private(path, json.dumps(keys, indent=2))
        return keys

    def write_env(self, values: Mapping[str, str]) -> None:
        """Write the env file in one step, so that no reader sees a part of it."""
        # quote the values for `. .local/env`, because a path may contain spaces
        lines = [f"{name}={value and shlex.quote(value)}" for name, value in values.items()]
        head = "# Written at every start.\n"
        write_private(self.env_file, head + "\n".join(lines) + "\n")


def find_launcher(folder: Path) -> int:
    """Return the pid of the launcher that has locked a stack's folder, or 0 if none has."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY)
    except OSError:
        return 0
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return int(os.read(lock, 32) or 0)
    finally:
        os.close(lock)
    return 0


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read. Other processes never see a part of the file."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
