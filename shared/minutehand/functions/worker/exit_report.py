"""Why a worker's process ended, from what it left behind: for its host's log and for its jobs.

The process writes what it is at (`minutehand.worker.alarm`); its host adds how it ended and says so
to the queue, which gives its jobs back at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from minutehand.config import Settings, read_text
from minutehand.queue.errors import QueueError
from minutehand.queue.worker_client import WorkerQueue
from minutehand.worker.alarm import EVIDENCE, STACKS
from minutehand.worker.errors import signal_of

logger = logging.getLogger(__name__)

#: The next process waits no longer until the queue knows why the last one ended.
_MOST_SECONDS: Final = 10.0
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
        environ: The process's environment; its commit is the one that its code was made of.
    """

    def __init__(self, path: Path, environ: Mapping[str, str]) -> None:
        self.variables = {EVIDENCE: str(path)}
        self._path = path
        self._environ = environ
        self._worker_id: str | None = None

    def clear(self) -> None:
        """Forget what an earlier one was at: the next process begins."""
        for end in ("", STACKS):
            Path(f"{self._path}{end}").unlink(missing_ok=True)

    def ended(self, code: int) -> Mapping[str, Any]:
        """Read what it left behind, for the log and the queue."""
        try:
            left = json.loads(self._path.read_text())
            stacks = Path(f"{self._path}{STACKS}").read_text(errors="replace")
        except (OSError, ValueError):
            left, stacks = {}, ""  # it ended before it had a job
        self._worker_id = left.get("worker_id")
        lines = stacks.splitlines()
        own = (line.strip() for line in lines if "File" in line and not _NOT_OWN.search(line))
        evidence = {
            "line": next(own, None),
            "exit_code": code if code >= 0 else None,
            "signal": signal_of(code),
            "memory_mb": left.get("memory_mb"),
            "jobs": left.get("jobs"),
            "running": left.get("running"),
            "commit": read_text(self._environ, "MINUTEHAND_COMMIT"),
            "stack": lines[:_MOST_LINES] or None,
            **_guilty(stacks, left),
        }
        return {name: value for name, value in evidence.items() if value is not None}

    async def report(self, evidence: Mapping[str, Any]) -> None:
        """Say to the queue why it ended, where it had jobs: they are given back at once."""
        if self._worker_id is None:
            return
        queue = WorkerQueue(Settings.from_env(self._environ))
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                await queue.worker_died(self._worker_id, evidence)
        except (QueueError, TimeoutError) as error:
            logger.warning(
                "Why the last process ended could not be said; its jobs run again without it",
                extra={"event": "worker.evidence_lost", "error": str(error)},
            )
        finally:
            await queue.aclose()


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
