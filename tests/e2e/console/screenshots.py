"""`python -m tests.e2e.console.screenshots [FOLDER]`: the console's pages as pictures.

Starts a stack of its own and tells it a story. Without a folder it takes the few pictures that
README.md shows; with one, every page in light and dark, wide and narrow.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Playwright, sync_playwright

from minutehand.local.users import ACME
from tests.e2e.console.browsers import FLAGS, chromium
from tests.e2e.console.people import ADA, OLGA, Visitor
from tests.e2e.console.story import Story, tell
from tests.support.stacks import RunningStack, running_stack

WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 780}
SIZES: dict[Any, Any] = {
    "light": {"wide": WIDE, "narrow": NARROW},
    "dark": {"wide": WIDE, "narrow": NARROW},
}
SHOWN = {
    "jobs-wide-light",
    "job-wide-light",
    "question-wide-dark",
    "operations-wide-dark",
    "jobs-narrow-light",
    "job-narrow-dark",
    "benchmark-wide-light",
    "plan-wide-light",
    "chat-wide-light",
    "training-wide-light",
    "waterfall-wide-light",
    "waterfall-narrow-dark",
    "types-wide-light",
    "alerts-wide-light",
    "on-call-wide-light",
    "workers-wide-dark",
}
#: Pages that people on call see.
ON_CALL = {"on-call": "/jobs", "workers": "/workers", "all-failures": "/failures"}
FOLDER = Path(__file__).resolve().parents[3] / "infra/console/screenshots"


def main(folder: Path, shown: set[str] | None = None) -> None:
    """Take the pictures named in `shown`, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_stack(Path(scratch) / "stack") as stack,
    ):
        story = tell(stack, str(ACME))
        with sync_playwright() as playwright:
            take(playwright, stack, story, folder, shown)


def take(
    playwright: Playwright, stack: RunningStack, story: Story, folder: Path, shown: set[str] | None
) -> None:
    """Take them of a stack that was told the story."""
    browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
    pages = {
        "jobs": "/jobs",
        "job": story.running,
        "question": story.asking,
        "dead-letter": story.failed,
        "operations": "/operations",
        "accounts": "/accounts",
        "settings": "/workspace/settings/api",
        "benchmark": story.benchmark,
        "plan": story.plan,
        "chat": story.chat,
        "training": story.training,
        "waterfall": story.family,
        "types": "/types",
        "type": "/types/enrich_account",
        "logs": "/logs",
        "failures": "/failures",
        "alerts": "/alerts",
        "limits": "/limits",
        "activity": "/activity",
        **ON_CALL,
    }
    for scheme, sizes in SIZES.items():
        for size, viewport in sizes.items():
            for who in (ADA, OLGA):
                visitor = Visitor(
                    browser,
                    stack,
                    workspace_id=str(ACME) if who is ADA else None,
                    color_scheme=scheme,
                    viewport=viewport,
                    device_scale_factor=1,
                )
                visitor.sign_in(who)
                for name, path in pages.items():
                    wanted = shown is None or f"{name}-{size}-{scheme}" in shown
                    if not wanted or (name in ON_CALL) is (who is ADA):
                        continue
                    visitor.open(path)
                    visitor.page.wait_for_timeout(1500)
                    visitor.page.screenshot(path=folder / f"{name}-{size}-{scheme}.png")
                visitor.close()
    browser.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        main(FOLDER, SHOWN)
