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
from tests.e2e.console.people import ADA, Visitor
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
}
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
    }
    for scheme, sizes in SIZES.items():
        for size, viewport in sizes.items():
            visitor = Visitor(
                browser,
                stack,
                workspace_id=str(ACME),
                color_scheme=scheme,
                viewport=viewport,
                device_scale_factor=1,
            )
            visitor.sign_in(ADA)
            for name, path in pages.items():
                if shown is not None and f"{name}-{size}-{scheme}" not in shown:
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
