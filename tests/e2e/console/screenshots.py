"""`python -m tests.e2e.console.screenshots [FOLDER]`: the console's pages as pictures.

Starts a stack of its own and tells it a story. Without a folder it takes the few pictures that
README.md shows; with one, every page in light and dark, on three widths, full, empty and failing.
"""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

from playwright.sync_api import Browser, Page, sync_playwright

from minutehand.local.users import ACME
from tests.e2e.console.browsers import FLAGS, chromium
from tests.e2e.console.people import ADA, Visitor
from tests.e2e.console.story import Story, tell
from tests.support.stacks import RunningStack, running_stack

SIZES: dict[str, Any] = {
    "wide": {"width": 1280, "height": 800},
    "narrow": {"width": 390, "height": 780},
    "small": {"width": 320, "height": 640},
}
SCHEMES: tuple[Any, ...] = ("light", "dark")
SHOWN = {
    "jobs-wide-light",
    "job-wide-light",
    "failed-wide-light",
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
}
#: Pages of the menu, which are looked at empty and failing, too.
MENU = {
    name: f"/{name}"
    for name in (
        "jobs", "types", "logs", "operations", "failures", "schedules", "webhooks",
        "benchmarks", "chat", "accounts", "plans", "trainings",
    )
}  # fmt: skip
FOLDER = Path(__file__).resolve().parents[3] / "infra/console/screenshots"
#: Screenshots in WebP are a third of what they are in PNG; the browser itself converts them.
_WEBP = """async (png) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/webp", 0.86).split(",")[1];
}"""


class Camera:
    """Takes pictures into a folder; with `shown` only those named there."""

    def __init__(self, browser: Browser, folder: Path, shown: set[str] | None) -> None:
        self._darkroom = browser.new_page()
        self._folder = folder
        self._shown = shown

    def wants(self, name: str) -> bool:
        """Whether this picture is to be taken."""
        return self._shown is None or name in self._shown

    def take(self, page: Page, name: str) -> None:
        """Keep what the page shows once it has come to rest."""
        page.wait_for_timeout(1500)
        png = base64.b64encode(page.screenshot()).decode()
        webp = self._darkroom.evaluate(_WEBP, png)
        (self._folder / f"{name}.webp").write_bytes(base64.b64decode(webp))


def main(folder: Path, shown: set[str] | None = None) -> None:
    """Take the pictures named in `shown`, or all."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.webp"):
        old.unlink()
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_stack(Path(scratch) / "stack") as stack,
    ):
        story = tell(stack, str(ACME))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            camera = Camera(browser, folder, shown)
            for scheme in SCHEMES:
                for size in SIZES:
                    take_full(browser, camera, stack, story, f"{size}-{scheme}")
                    if shown is None:
                        take_bare(browser, camera, stack, f"{size}-{scheme}")
            browser.close()


def pages_of(story: Story) -> dict[str, str]:
    """Every page by name, with something on it."""
    return {
        **MENU,
        "job": story.running,
        "question": story.asking,
        "failed": story.failed,
        "settings": "/workspace/settings/api",
        "benchmark": story.benchmark,
        "plan": story.plan,
        "chat": story.chat,
        "training": story.training,
        "waterfall": story.family,
        "type": "/types/enrich_account",
    }


def visitor_of(
    browser: Browser, stack: RunningStack, look: str, workspace: str | None, who: Any = ADA
) -> Visitor:
    """Somebody who looks at the console on a width and in a scheme, `wide-light` for example."""
    size, _, scheme = look.partition("-")
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": SIZES[size]}
    visitor = Visitor(browser, stack, workspace_id=workspace, device_scale_factor=1, **options)
    visitor.sign_in(who)
    return visitor


def take_full(
    browser: Browser, camera: Camera, stack: RunningStack, story: Story, look: str
) -> None:
    """Take the pages of a stack that was told the story."""
    wanted = {
        name: path for name, path in pages_of(story).items() if camera.wants(f"{name}-{look}")
    }
    if not wanted:
        return
    visitor = visitor_of(browser, stack, look, str(ACME), ADA)
    for name, path in wanted.items():
        visitor.open(path)
        camera.take(visitor.page, f"{name}-{look}")
    visitor.close()


def take_bare(browser: Browser, camera: Camera, stack: RunningStack, look: str) -> None:
    """Take the menu's pages in a workspace without anything, then while the server fails."""
    workspace = str(uuid4())
    with stack.connect() as connection:
        connection.execute(
            "with made as (insert into public.workspaces (id, name) values (%s, 'Bare'))"
            " insert into public.workspace_members (workspace_id, user_id, role)"
            " values (%s, %s, 'manager')",
            (workspace, workspace, ADA.id),
        )
    visitor = visitor_of(browser, stack, look, workspace)
    for name, path in MENU.items():
        visitor.open(path)
        camera.take(visitor.page, f"empty-{name}-{look}")
    refused = {"error": "The database does not answer", "code": "unavailable"}
    for pattern in ("**/api/**", "**/rest/v1/**"):
        visitor.page.route(pattern, lambda route: route.fulfill(status=503, json=refused))
    for name, path in MENU.items():
        # without a reload, whose first reads would fail as well
        visitor.page.locator(f"nav a[href='{path}']").dispatch_event("click")
        camera.take(visitor.page, f"failing-{name}-{look}")
    visitor.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        main(FOLDER, SHOWN)
