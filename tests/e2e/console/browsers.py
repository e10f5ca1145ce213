"""Where Chromium is and how it is started."""

from __future__ import annotations

import os
import shutil

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """Where Chromium is: CHROMIUM, or the system's; first the one without windows.

    Opening a page costs the shell a ninth of what it costs the whole browser.
    """
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise RuntimeError(
            "no Chromium: apt-get install chromium-headless-shell, or set CHROMIUM to its path"
        )
    return found
