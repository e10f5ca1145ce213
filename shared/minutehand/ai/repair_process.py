"""Repairs text that is almost JSON, in a separate process that parsing.py starts.

The process reads the text from standard input and writes valid JSON. The processor time is limited,
because json_repair takes quadratic time or more for sequences of braces and quotes.
"""

import json
import resource
import sys

#: Maximum processor time, which is more than any normal answer needs.
SECONDS = 2


def main() -> None:
    """Repair the text on standard input."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    import json_repair

    value = json_repair.loads(sys.stdin.buffer.read().decode(), skip_json_loads=True)
    sys.stdout.write(json.dumps(value))


if __name__ == "__main__":
    main()
