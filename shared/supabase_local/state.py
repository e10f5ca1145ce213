"""What a stack keeps between runs: `.local/` with its lock, secrets and env file.

Losing the folder loses the local data and nothing else.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path


class AlreadyRunning(Exception):
    """Another launcher holds this folder."""


class StateFolder:
    """The folder of one stack; everything in it is for its owner's eyes only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "logs").mkdir(parents=True, exist_ok=True)
        ignore = path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", "utf-8")
        self._lock: int | None = None

    @property
    def env_file(self) -> Path:
        """The dotenv file that tools read."""
        return self.path / "env"

    @property
    def ready_file(self) -> Path:
        """Hold the launcher's pid while every part answers; after a kill -9 it is stale."""
        return self.path / "ready"

    def lock(self) -> None:
        """Become the only launcher here until this process ends; or AlreadyRunning."""
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            holder = os.read(lock, 32).decode().strip() or "unknown"
            os.close(lock)
            raise AlreadyRunning(
                f"A stack is already running in {self.path} (process {holder}). Stop it first, or "
                f"use it: its addresses are in {self.env_file}."
            ) from held
        self.ready_file.unlink(missing_ok=True)  # of a launcher that was killed
        os.truncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        self._lock = lock

    def secrets(self) -> Mapping[str, str]:
        """Read the keys of this stack; made on the first run, so that tokens survive a restart."""
        path = self.path / "secrets.json"
        if path.exists():
            stored: dict[str, str] = json.loads(path.read_text())
            return stored
        made = {
            "SUPABASE_PUBLISHABLE_KEY": f"sb_publishable_{secrets.token_urlsafe(18)}",
            "SUPABASE_SECRET_KEY": f"sb_secret_{secrets.token_urlsafe(24)}",
            "SUPABASE_JWT_SECRET": secrets.token_urlsafe(36),
        }
        write_private(path, json.dumps(made, indent=2))
        return made

    def write_env(self, values: Mapping[str, str]) -> None:
        """Write the dotenv file in one step, so that no reader sees half of it."""
        # for `. .local/env` too: a project's path may have spaces
        lines = [f"{name}={value and shlex.quote(value)}" for name, value in values.items()]
        head = "# Written at every start.\n"
        write_private(self.env_file, head + "\n".join(lines) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, replacing it in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
