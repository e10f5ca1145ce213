"""Why a worker's process ended, from what it left behind: for its host's log and for its jobs.

The process writes what it is at (`minutehand.worker.alarm`); its host adds how it ended; the next
process says so to the queue before anything else, which gives its jobs back at once.
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
#: A frame in a stack of `faulthandler`; and the heads of threads: the one that a signal ended, and
#: what the event loop's has in it.
_FRAME: Final = re.compile(r'File "(.+)", line \d+ in (.+)')
_FATAL: Final = "Current thread"
_LOOP: Final = "in run_forever"
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
            **_guilty(stacks, left),
        }
        known = {name: value for name, value in evidence.items() if value is not None}
        if "worker_id" in left:
            said = {"worker_id": left["worker_id"], "evidence": known}
            Path(f"{self._path}{_ENDED}").write_text(json.dumps(said))
        return known


def _guilty(stacks: str, left: Mapping[str, Any]) -> dict[str, Any]:
    """The jobs that ended their process, with their type, where its stacks or its jobs show it.

    Of a blocked loop that is what the loop's thread is in, of a crash what the crashed one is in; a
    plain function that keeps Python's lock is known only where it is the only one. Of several jobs
    of one type, all are named: the stack does not distinguish them.
    """
    jobs, types = left.get("jobs", []), left.get("types", [])
    threads = stacks.split("\n\n")
    first = [each for each in threads if _FATAL in each] or [
        each for each in threads if _LOOP in each
    ]
    for those in (first, threads):
        places = {":".join(found) for each in those for found in _FRAME.findall(each)}
        named = [at for at, place in enumerate(left.get("codes", [])) if place in places]
        if len({types[at] for at in named}) == 1:
            break
    else:
        named = [0] if len(jobs) == 1 else []
    if not named:
        return {}
    return {"guilty": [jobs[at] for at in named], "guilty_type": types[named[0]]}


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
