"""Users of the console. A user's browser context collects the errors of its pages."""

import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from minutehand.local.users import ADA, BOB, OLGA, DemoUser
from tests.support.stacks import RunningStack

__all__ = ["ADA", "BOB", "OLGA", "Visitor", "click", "expect", "open_link", "press"]

#: The timeout for a machine ten times slower than a developer's. A condition that holds is not
#: delayed.
PATIENCE_MS = 40_000
expect.set_options(timeout=PATIENCE_MS)


#: The message about a third concurrent large read, which the page repeats after a tenth of a
#: second.
BUSY = r"status of 429 .*/rest/v1/rpc/"
#: The warning if a user leaves a page before its socket is open.
NOT_OPEN_YET = "WebSocket is closed before the connection is established"
#: The errors that a browser reports for a lost connection.
NETWORK = r"Failed to load resource|WebSocket connection|ERR_"
_SETTLED = """() => !document.querySelector('main .loading, .freshness[data-freshness=catching-up]')
  && document.getAnimations().every((one) => one.playState !== 'running'
    || one.effect.getComputedTiming().iterations === Infinity)"""
_GO = """async (path) => {
  (await import("/app.js")).navigate(path);
  await new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)));
}"""


def click(place: Page | Locator, name: str | re.Pattern[str], *, exact: bool = False) -> None:
    """Click the button with this name."""
    place.get_by_role("button", name=name, exact=exact).click()


def press(place: Page | Locator, name: str, *, exact: bool = False) -> None:
    """Press the button with this name by the keyboard."""
    place.get_by_role("button", name=name, exact=exact).press("Enter")


@contextmanager
def open_link(page: Page) -> Iterator[Page]:
    """Make a public link to what the page shows, and open it on a stranger's phone."""
    press(page, "Share")
    press(page, "Make a link")
    browser = page.context.browser
    assert browser
    with closing(browser.new_context(viewport={"width": 320, "height": 700})) as stranger:
        shared = stranger.new_page()
        shared.goto(page.get_by_label("Link").input_value())
        yield shared


class Visitor:
    """A user's browser context, with its own storage and one page. It collects errors."""

    def __init__(
        self,
        browser: Browser,
        stack: RunningStack,
        who: DemoUser | None,
        workspace_id: str,
        allow: tuple[str, ...],
    ) -> None:
        stored = {"minutehand.workspace": workspace_id}
        if who is not None:
            stored["minutehand.session"] = json.dumps(stack.session_of(who.email))
        items = [{"name": name, "value": value} for name, value in stored.items()]
        origin: Any = {"origin": stack.api_url, "localStorage": items}
        self.context = browser.new_context(
            base_url=stack.api_url,
            viewport={"width": 1280, "height": 820},
            reduced_motion="reduce",  # no test checks animations
            storage_state={"origins": [origin]},
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self._allowed = re.compile("|".join((BUSY, NOT_OPEN_YET, *allow)))
        #: The unexpected messages in the browser's console.
        self.problems: list[str] = []
        self.page: Page = self._new_page()

    def _new_page(self) -> Page:
        page = self.context.new_page()
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.add_init_script(
            "addEventListener('securitypolicyviolation', (e) =>"
            " console.error(`policy: ${e.violatedDirective} ${e.blockedURI}`))"
        )
        return page

    def another_tab(self, path: str) -> Page:
        """Open a second page of the same browser with the same session."""
        page = self._new_page()
        page.goto(path)
        return page

    def _note(self, message: ConsoleMessage) -> None:
        said = f"{message.type}: {message.text} ({message.location.get('url')})"
        if message.type in {"error", "warning"} and not self._allowed.search(said):
            self.problems.append(said)

    def open(self, path: str) -> None:
        """Load an address and wait until the page is drawn."""
        self.page.goto(path)
        self.page.locator("h1").first.wait_for()

    def go(self, path: str) -> None:
        """Navigate as a link does, without a reload of the page, and then call `settle`."""
        self.page.evaluate(_GO, path)
        self.settle()

    def settle(self) -> None:
        """Wait until the page has no reads in flight and no animation runs."""
        self.page.wait_for_function(_SETTLED)
