"""`python -m infra.bench [MEASUREMENT]` measures and prints tables.

Without an argument, this is the measurement `worker`.
"""

import sys
from importlib import import_module

MEASUREMENTS = ("worker", "instructions")


def main() -> int:
    """Run the measurement that the first argument names.

    That measurement gets the remaining arguments of the command.
    """
    has_name = len(sys.argv) > 1 and not sys.argv[1].startswith("-")
    name, *rest = sys.argv[1:] if has_name else ["worker", *sys.argv[1:]]
    if name not in MEASUREMENTS:
        print(f"measurement must be one of {', '.join(MEASUREMENTS)}, not {name!r}")
        return 2
    sys.argv = [f"python -m infra.bench {name}", *rest]
    return int(import_module(f"infra.bench.{name}").main() or 0)


if __name__ == "__main__":
    raise SystemExit(main())
