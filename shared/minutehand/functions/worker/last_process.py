"""Why a worker's process ended, from what it left behind: for its host's log and for its jobs.

The process writes what it is at (`minutehand.worker.alarm`); its host adds how it ended; the next
process says so to the queue, whose jobs keep it when their leases expire.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from minutehand.queue.errors import QueueError
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.alarm import EVIDENCE, STACKS
from minutehand.worker.errors import signal_of

logger = logging.getLogger(__name__)

#: Beside what the process wrote: what its host made of it.
_ENDED: Final = ".ended"
#: Most lines of its last stacks that are kept; its own thread's come first.
_MOST_LINES: Final = 40
#: Files of Python, of libraries and of the engine.
_NOT_OWN: Final = re.compile(r"/(site-packages|lib/python[\d.]+|minutehand)/")


class LastProcess:
    """What a host knows of the worker's process that ended last.

    Args:
        path: Where a process writes what it is at.
        commit: The commit that its code was made of.
    """

    def __init__(self, path: Path, *, commit: str | None) -> None:
        self.variables = {EVIDENCE: str(path)}
        self._path = path
        self._commit = commit

    def clear(self) -> None:
        """Forget what an earlier one was at: the next process begins."""
        for end in ("", STACKS):
            Path(f"{self._path}{end}").unlink(missing_ok=True)

    def ended(self, code: int) -> Mapping[str, Any]:
        """Note how it ended and return the evidence, for the log."""
        try:
            left = json.loads(self._path.read_text())
            stacks = Path(f"{self._path}{STACKS}").read_text(errors="replace")
        except (OSError, ValueError):
            left, stacks = {}, ""  # it ended before it had a job
        lines = stacks.splitlines()
        own = (line.strip() for line in lines if "File" in line and not _NOT_OWN.search(line))
        evidence = {
            "line": next(own, None),
            "exit_code": code if code >= 0 else None,
            "signal": signal_of(code),
            "memory_mb": left.get("memory_mb"),
            "jobs": left.get("jobs"),
            "commit": self._commit,
            "stack": lines[:_MOST_LINES] or None,
        }
        known = {name: value for name, value in evidence.items() if value is not None}
        if "worker_id" in left:
            said = {"worker_id": left["worker_id"], "evidence": known}
            Path(f"{self._path}{_ENDED}").write_text(json.dumps(said))
        return known


async def report_last_process(queue: WorkerQueue) -> None:
    """Say to the queue why the process before this one ended, once, if its host noted it."""
    said = _take_note()
    if said is None:
        return
    try:
        await queue.worker_died(said["worker_id"], said["evidence"])
    except QueueError as error:
        logger.warning(
            "Why the last process ended could not be said; its jobs run again without it",
            extra={"event": "worker.evidence_lost", "error": str(error)},
        )


def _take_note() -> dict[str, Any] | None:
    """What the host noted of the last process; None where it ended well, or has no host."""
    path = Path(f"{os.environ.get(EVIDENCE, '')}{_ENDED}")
    try:
        said: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    path.unlink()
    return said
