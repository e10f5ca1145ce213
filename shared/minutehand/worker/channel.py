"""What a worker's process says to the one that supervises it: a JSON object a line, over a pipe.

The supervisor's side is `minutehand.functions.worker.supervisor`.
"""

from __future__ import annotations

import inspect
import json
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from minutehand.worker.attempt import Attempt
from minutehand.worker.watchdog import resident_mb

BEAT_SECONDS: Final = 1.0


class Channel:
    """The worker's end of the pipe; lines are written whole, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def say(self, **message: Any) -> None:
        """Write one message; without a supervisor there is no one to write to."""
        line = json.dumps(message, separators=(",", ":"), default=str).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[os.write(self._descriptor, line) :]
            except BrokenPipeError:
                return  # the end of our input stops this process

    def began(self, attempt: Attempt) -> None:
        """A processor starts; its time runs from now."""
        self.say(
            began={
                "job_id": attempt.job_id,
                "fence": attempt.fence,
                "job_type": attempt.job_type,
                "timeout_seconds": attempt.timeout_seconds,
                "grace_seconds": attempt.grace_seconds,
                **_place(attempt.kind.run if attempt.kind is not None else None),
            }
        )

    def ended(self, attempt: Attempt) -> None:
        """A processor has ended, or is no longer awaited."""
        self.say(ended={"job_id": attempt.job_id, "fence": attempt.fence})

    def beat(self) -> None:
        """Say every second that Python runs here, from a thread: a blocked loop still beats."""

        def beats() -> None:
            pause = threading.Event()
            while True:
                self.say(beat={"resident_mb": round(resident_mb())})
                pause.wait(BEAT_SECONDS)

        threading.Thread(target=beats, name="beat", daemon=True).start()


def _place(processor: Callable[..., Any] | None) -> dict[str, str]:
    """Where a processor's code is: its module, and file and name as a stack shows them."""
    code = getattr(inspect.unwrap(processor), "__code__", None) if processor else None
    return {
        "module": getattr(processor, "__module__", None) or "",
        "file": "" if code is None else code.co_filename,
        "function": "" if code is None else code.co_name,
    }
