"""Repairs a text that is almost JSON, in a separate process that parsing.py starts.

The process reads the text from standard input, and writes valid JSON. The process has a limit of
processor time, because the time of json_repair grows with the square of the number of braces and
quotes, or faster.
"""

import json
import resource
import sys

#: Maximum seconds of processor time, which are enough for any normal answer.
SECONDS = 2


def main() -> None:
    """Repair the text on standard input."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    import json_repair

    value = json_repair.loads(sys.stdin.buffer.read().decode(), skip_json_loads=True)
    sys.stdout.write(json.dumps(value))


if __name__ == "__main__":
    main()
