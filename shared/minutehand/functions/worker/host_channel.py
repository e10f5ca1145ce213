"""The channel between a worker's process and its host, about suspects.

Suspects are jobs whose process ended while it also ran other jobs. The host starts processes that
run suspects and nothing else, next to the worker's usual process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: File descriptor of a pipe to the host. The usual process writes the number of companies to it.
PIPE: Final = "WORKER_SUSPECTS_PIPE"
#: Set for a process that runs suspects and nothing else.
SUSPECTS_ONLY: Final = "WORKER_SUSPECTS_ONLY"


@dataclass(frozen=True)
class HostChannel:
    """The environment variables by which a host and its worker's process communicate.

    Attributes:
        serves_suspects: True for a process that runs suspects alone, false if the host starts such
            processes, None without a host.
        pipe: File descriptor of the pipe to the host.
    """

    serves_suspects: bool | None
    pipe: int | None = None

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> HostChannel:
        """Read the channel from the environment of the process."""
        if environ.get(SUSPECTS_ONLY):
            return cls(serves_suspects=True)
        if pipe := environ.get(PIPE):
            return cls(serves_suspects=False, pipe=int(pipe))
        return cls(serves_suspects=None)

    def report_suspects(self, companies: int) -> None:
        """Ask the host for processes for this number of companies of suspects."""
        if companies and self.pipe is not None:
            # a full pipe holds requests that the host has not read yet
            with contextlib.suppress(BlockingIOError):
                os.write(self.pipe, bytes([min(companies, 255)]))
