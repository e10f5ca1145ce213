"""Mends text that is almost JSON, in a process of its own; started by reading.py, never imported.

Reads the text from standard input and writes what it may have meant, as JSON. Its processor time is
limited: json_repair takes quadratic time and more for braces and quotes that follow each other.
"""

import json
import resource
import sys

#: More than any answer of a model that means well takes, with the start of the process.
SECONDS = 2


def main() -> None:
    """Mend what comes in."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    import json_repair

    found = json_repair.loads(sys.stdin.buffer.read().decode(), skip_json_loads=True)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
