"""`python -m infra.bench [queues|worker|instructions|age]`: measure and print tables.

Without a name: `queues`, the engine beside other queues in one run, whose ratios count.
"""

from __future__ import annotations

import sys
from importlib import import_module

MEASUREMENTS = ("queues", "worker", "instructions", "age")


def main() -> int:
    """Run one measurement with the arguments that follow its name."""
    name, *rest = sys.argv[1:] if sys.argv[1:] else ["queues"]
    if name.startswith("-"):
        name, rest = "queues", [name, *rest]
    if name not in MEASUREMENTS:
        print(f"unknown measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
        return 2
    sys.argv = [f"python -m infra.bench {name}", *rest]
    return int(import_module(f"infra.bench.{name}").main() or 0)


if __name__ == "__main__":
    raise SystemExit(main())
