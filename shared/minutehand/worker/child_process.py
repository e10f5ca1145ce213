"""Binds itself and becomes another program; started by child.py.

Here and not between fork and exec: what Python does there may hang in a process with threads.
"""

import ctypes
import os
import resource
import signal
import sys

#: As a shell's, for a command that cannot be run.
NOT_RUNNABLE = 127
_PR_SET_PDEATHSIG = 1


def main(parent: int, memory: int, seconds: int, most_bytes: int, command: list[str]) -> int:
    """Bound memory, processor time and written bytes, and end with the starting process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if sys.platform.startswith("linux"):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            return 1
    try:
        # no secret of ours, no proxy, no report file
        os.execve(command[0], command, {"LC_ALL": "C"})
    except OSError as error:
        print(error, file=sys.stderr)
    return NOT_RUNNABLE


if __name__ == "__main__":
    parent, memory, seconds, most_bytes = map(int, sys.argv[1:5])
    sys.exit(main(parent, memory, seconds, most_bytes, sys.argv[5:]))
