"""`python -m minutehand.local` runs the local stack in the foreground until Ctrl-C.

Exit codes: 0 after Ctrl-C, or with --once if all demo jobs ended as expected. 1 if a part of the
stack or a demo job failed. 3 if another stack runs in this folder.
"""

import argparse
import sys
import time
from pathlib import Path

STARTED = time.monotonic()


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m minutehand.local", description=__doc__)
    parser.add_argument("--once", action="store_true", help="exit when the demo jobs have ended")
    parser.add_argument("--no-demo", action="store_true", help="start no demo jobs")
    parser.add_argument(
        "--any-ports", action="store_true", help="do not prefer the ports 54321 and 8000"
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="stop when the parent process ends"
    )
    parser.add_argument("--scratch", action="store_true", help="no durability, for tests")
    parser.add_argument(
        "--supabase-url", help="run beside this Supabase: worker, API, console only"
    )
    parser.add_argument("--state", type=Path, default=Path(".local").resolve())
    return parser.parse_args()


def main() -> int:
    """Run the stack."""
    options = arguments()
    print("Minutehand: starting the local stack", flush=True)
    # import these modules only here, because their slow imports would delay the first line of
    # output
    from minutehand.local.launcher import Launcher
    from minutehand.project import Project

    Project.find().make_importable()
    return Launcher(options, started=STARTED).run(with_parent=options.with_parent)


if __name__ == "__main__":
    sys.exit(main())
