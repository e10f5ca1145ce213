"""Looking at a page: what axe finds, and whether it fits."""

from __future__ import annotations

from typing import Any, Literal

from playwright.sync_api import Page

from tests.e2e.console.people import Visitor
from tests.support.paths import ROOT

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
#: The rules whose answer is another in another colour scheme.
OF_COLOURS = ["color-contrast", "link-in-text-block"]


def violations(page: Page, *, colours_only: bool = False) -> list[str]:
    """What axe finds, in one line each."""
    if not page.evaluate("'axe' in window"):
        axe = (ROOT / "node_modules/axe-core/axe.min.js").read_text()
        page.evaluate(f"() => {{ {axe} }}")
    only = (
        {"type": "rule", "values": OF_COLOURS} if colours_only else {"type": "tag", "values": TAGS}
    )
    found: list[dict[str, Any]] = page.evaluate(
        # a sandboxed frame cannot be asked: its origin is no one's
        "(runOnly) => axe.run(document, {runOnly, resultTypes: ['violations'], iframes: false})"
        ".then((r) => r.violations)",
        only,
    )
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in found
        for node in one["nodes"]
    ]


def violations_in_both_schemes(visitor: Visitor) -> list[str]:
    """What axe finds by every rule in light, and by those of colours in dark: no other differ."""
    found = []
    for scheme in SCHEMES:
        visitor.page.emulate_media(color_scheme=scheme)
        visitor.settle()
        lines = violations(visitor.page, colours_only=scheme == "dark")
        found += [f"{scheme} {line}" for line in lines]
    return found


def fits(page: Page) -> None:
    """Wait until nothing is wider than the window: what was resized is drawn a moment later."""
    page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
