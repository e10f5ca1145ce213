"""Where the command `minutehand` begins: it says which extra a plain install lacks."""

from __future__ import annotations

import sys

#: The extras, and the packages of each that may be missing.
EXTRAS = {
    "cli": ("typer", "rich", "httpx_sse"),
    "deploy": ("yaml", "uv"),
    "serve": ("uvicorn",),
    "mcp": ("fastmcp",),
    "dev": ("supabase_local", "moto", "psycopg", "uvloop"),
}


def run() -> None:
    """Run the command; exit 1 with the extra to install where a package of one is missing."""
    try:
        from minutehand.cli.__main__ import run as command

        command()
    except ModuleNotFoundError as missing:
        top = (missing.name or "").partition(".")[0]
        extra = next((extra for extra, brings in EXTRAS.items() if top in brings), None)
        if extra is None:
            raise
        print(
            f"This needs the package {top}, which comes with an extra. "
            f'Install it: pip install "minutehand[{extra}]"',
            file=sys.stderr,
        )
        sys.exit(1)


if __name__ == "__main__":
    run()
