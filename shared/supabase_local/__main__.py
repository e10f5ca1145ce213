"""Run a local Supabase (Postgres, the Data API, Auth, Realtime) until Ctrl-C.

The command applies supabase/migrations and the seeds of this folder. Exit codes: 0 stopped, 1
failed, 3 another stack runs in this folder.
"""

import argparse
import sys
import time
from pathlib import Path

STARTED = time.monotonic()


def main() -> int:
    """Parse the command line, and run the stack or delete its data."""
    parser = argparse.ArgumentParser(prog="supabase-local", description=__doc__)
    parser.add_argument("--reset", action="store_true", help="delete the stack's data and keys")
    parser.add_argument("--state", type=Path, default=Path(".local"), help="its folder")
    parser.add_argument("--any-ports", action="store_true", help="free ports, not 54321")
    parser.add_argument("--scratch", action="store_true", help="no durability, for tests")
    options = parser.parse_args()
    # imported here, so that --help does not wait for these imports
    from supabase_local.launcher import Launcher, reset

    state = options.state.resolve()
    if options.reset:
        return reset(state)
    return Launcher(
        state, started=STARTED, any_ports=options.any_ports, scratch=options.scratch
    ).run()


if __name__ == "__main__":
    sys.exit(main())
