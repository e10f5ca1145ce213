"""The path of Chromium."""

import subprocess
from pathlib import Path

FIND = Path(__file__).parents[3] / ".ci" / "chromium"


def chromium() -> str:
    """Return the path of CHROMIUM, of the system's Chromium, or of Playwright's."""
    found = subprocess.run(["sh", FIND], stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise RuntimeError(
            "no Chromium: apt-get install chromium-headless-shell, or set CHROMIUM to its path"
        )
    return found.stdout.strip()
