"""Entry point of the command `minutehand`.

If a package is missing, the command prints the name of its pip extra.
"""

import sys

#: Packages that a pip extra of this package installs, by the name of the extra.
EXTRAS = {
    "cli": ("typer", "rich", "httpx_sse"),
    "deploy": ("yaml", "uv", "psycopg"),
    "serve": ("uvicorn",),
    "mcp": ("fastmcp",),
    "dev": ("supabase_local", "moto", "uvloop"),
}


def run() -> None:
    """Run the command.

    If a package is missing, print the pip extra that contains it, and exit with 1.
    """
    try:
        from minutehand.cli.__main__ import run as command

        command()
    except ModuleNotFoundError as missing:
        top = (missing.name or "").partition(".")[0]
        extra = next((extra for extra, packages in EXTRAS.items() if top in packages), None)
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
