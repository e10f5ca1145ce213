"""Checks of a page: accessibility with axe, and the width."""

from typing import Any, Literal

from playwright.sync_api import Page

from tests.e2e.console.people import Visitor
from tests.support.paths import ROOT

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: The axe rules whose result depends on the colour scheme.
OF_COLOURS = ["color-contrast", "link-in-text-block"]


def violations(page: Page, *, colours_only: bool = False) -> list[str]:
    """Return the accessibility violations that axe finds, one line each."""
    if not page.evaluate("'axe' in window"):
        axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
        page.evaluate(f"() => {{ {axe} }}")
    only = (
        {"type": "rule", "values": OF_COLOURS} if colours_only else {"type": "tag", "values": TAGS}
    )
    found: list[dict[str, Any]] = page.evaluate(
        # axe cannot check a sandboxed frame, because the frame has an opaque origin.
        "(runOnly) => axe.run(document, {runOnly, resultTypes: ['violations'], iframes: false})"
        ".then((r) => r.violations)",
        only,
    )
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in found
        for node in one["nodes"]
    ]


def check_page(visitor: Visitor) -> None:
    """Check a page's accessibility in light and dark, and its width on a phone."""
    page, wide = visitor.page, visitor.page.viewport_size
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        visitor.settle()
        found = violations(page, colours_only=scheme == "dark")
        assert found == [], f"{scheme}: {found}"
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    assert wide
    page.set_viewport_size(wide)


def fits(page: Page) -> None:
    """Wait until no element is wider than the window. A resize is drawn a moment later."""
    page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
