"""A conversation with a guest: two browsers, one of them with nothing but the link."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import paused, picture, violations, write_live
from tests.e2e.console.people import ADA, expect
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

#: Chromium reports every refusal; that a closed visit is refused is what is wanted.
REFUSED = r"status of 404 "
CLOSED = "This link leads to no open conversation"


def test_a_visitor_talks_works_and_is_shown_out(
    visit: Visit,
    stack: RunningStack,
    workspace: dict[str, str],
    api: Callable[..., Any],
    repository: Path,
) -> None:
    """By keyboard, on a narrow screen, followed by the member; the key is in no address sent."""
    begun = api("POST", "/api/chat/conversations", {"workspace_id": workspace["id"]})
    at = f"/api/chat/conversations/{begun['id']}"
    api("POST", f"{at}/messages", {"text": "How is the lift?", "mode": "reply"})
    member = visit(ADA, f"/chat/{begun['id']}", allow=(REFUSED,))
    expect(member.page.locator("[data-kind=reply]")).to_be_visible()
    member.page.get_by_role("button", name="Share with a guest").press("Enter")
    dialog = member.page.get_by_role("dialog")
    picture(member.page, "chat-share")
    dialog.get_by_role("button", name="Make the link").press("Enter")
    field = dialog.get_by_label("The link, which is the key")
    expect(field).to_be_focused()
    link = field.input_value()
    key = re.fullmatch(rf".*/guest/chat#(guest_[0-9a-f]{{64}})/{begun['id']}", link)
    assert key is not None
    found = violations(member.page, repository)
    picture(member.page, "chat-shared")
    dialog.get_by_role("button", name="Close").press("Enter")
    expect(member.page.locator(".freshness")).to_have_attribute("data-freshness", "live")

    small = {"width": 320, "height": 700}
    visitor = visit(None, "/guest/chat#guest_1", allow=(REFUSED,), viewport=small)
    page = visitor.page
    expect(page.get_by_role("alert")).to_contain_text(CLOSED)
    found += violations(page, repository)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(link)
    expect(page.get_by_role("heading", level=1)).to_have_text("How is the lift?")
    expect(page.locator("[data-kind=message]")).to_contain_text("A member")
    expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
    for name in ("Rename", "Delete", "Its job and log"):
        expect(page.get_by_text(name)).to_have_count(0)
    box = page.get_by_role("textbox", name="Message")
    theirs = member.page.locator("[data-kind=message]").nth(1)
    with paused(stack, workspace["id"], "chat_reply"):
        page.get_by_role("button", name="Add a text").press("Enter")
        page.get_by_label("Title").fill("Notes")
        page.get_by_label("Text", exact=True).fill("The lift carries two tonnes. The roof leaks.")
        box.fill("Draft a letter about the lift, then build a dashboard of it.")
        box.press("Enter")
        expect(page.locator("[data-kind=message]").nth(1)).to_contain_text("You")
        expect(theirs).to_contain_text("A guest")
        expect(theirs).to_contain_text("Draft a letter about the lift")
        write_live(stack, workspace["id"], "chat_reply", stage="text:0", text="<b>The lift")
        for each in (page, member.page):
            expect(each.locator("[data-live]")).to_have_text("<b>The lift")
        picture(page, "chat-guest-live")
    cards = page.locator("[data-item]")
    expect(cards).to_have_count(2)
    for card in (cards.nth(0), cards.nth(1)):
        expect(card).to_have_attribute("data-status", "waiting")
    page.get_by_role("button", name="Go to the question").press("Enter")
    cards.nth(0).get_by_role("button", name="Formal").press("Enter")
    expect(page.locator("[data-kind=result]")).to_contain_text("Draft")
    cards.nth(1).get_by_role("button", name="Cancel").press("Enter")
    expect(cards.nth(1)).to_have_attribute("data-status", "cancelled")
    expect(member.page.locator("[data-kind=answer]")).to_contain_text("A guest")
    expect(member.page.locator("[data-kind=result]")).to_be_visible()
    expect(member.page.locator("[data-item]").nth(1)).to_have_attribute("data-status", "cancelled")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        visitor.settle()
        found += violations(page, repository)
        picture(page, f"chat-guest-narrow-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    box.fill("Are you still there?")
    answers: list[int] = []
    reads: list[Route] = []  # held back, so that it is the message that meets the end
    page.route(f"**{at}", lambda route: route.continue_() if answers else reads.append(route))
    member.page.get_by_role("button", name="Shared with a guest").press("Enter")
    dialog.get_by_role("button", name="Stop sharing").press("Enter")
    expect(dialog.get_by_role("button", name="Make the link")).to_be_visible()
    dialog.get_by_role("button", name="Close").press("Enter")
    with page.expect_response(f"**{at}/messages") as answered:
        box.press("Enter")
    answers.append(answered.value.status)
    assert answers == [404]
    for read in reads:
        read.continue_()
    expect(page.get_by_role("alert")).to_contain_text(CLOSED)
    expect(box).to_have_count(0)
    assert asked
    assert [url for url in asked if key[1] in url.partition("#")[0]] == []
    assert found == []


def test_a_visit_without_a_conversation_begins_one(
    visit: Visit, stack: RunningStack, workspace: dict[str, str], repository: Path
) -> None:
    """Links of an application's own, by `open_guest_session`; reloading finds it again."""
    with stack.connect() as connection:
        row = connection.execute(
            "select public.open_guest_session(%s)", (workspace["id"],)
        ).fetchone()
    assert row is not None
    visitor = visit(None, f"/guest/chat#{row[0]['session_id']}")
    page = visitor.page
    found = violations(page, repository)
    page.get_by_role("textbox", name="Message").fill("Good morning")
    page.get_by_role("textbox", name="Message").press("Enter")
    expect(page.locator("[data-kind=reply]")).to_contain_text("no language model")
    expect(page.get_by_role("heading", level=1)).to_have_text("Good morning")
    page.set_viewport_size({"width": 1280, "height": 800})
    visitor.settle()
    picture(page, "chat-guest-wide")
    page.reload()
    expect(page.locator("[data-kind=reply]")).to_be_visible()
    assert found == []
