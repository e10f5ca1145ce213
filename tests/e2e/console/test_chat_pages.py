"""The chat app's pages: replies while they are written, work as cards, questions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import paused, picture, violations, write_live
from tests.e2e.console.people import ADA, BOB
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

HOSTILE = "The roof <img src=x onerror=alert(1)> leaks **badly**."


def test_a_chat_with_work_in_it(
    visit: Visit, stack: RunningStack, workspace: dict[str, str], repository: Path
) -> None:
    """By keyboard: a reply as it is written, work that asks, its result; all of it plain text."""
    visitor = visit(ADA, "/chat")
    page = visitor.page
    expect(page.get_by_text("Nothing said yet")).to_be_visible()
    page.get_by_role("button", name="New conversation").press("Enter")
    expect(page).to_have_url(re.compile(r"/chat/[0-9a-f-]{36}$"))
    expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
    box = page.get_by_role("textbox", name="Message")
    with paused(stack, workspace["id"], "chat_reply"):
        box.fill(HOSTILE)
        box.press("Enter")
        expect(page.locator("[data-kind=message]")).to_contain_text(HOSTILE)
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        expect(page.locator("[data-reply]")).to_contain_text("will answer soon")
        write_live(stack, workspace["id"], "chat_reply", stage="text:0", text="<b>The roof")
        live = page.locator("[data-live]")
        expect(live).to_have_text("<b>The roof")
        write_live(stack, workspace["id"], "chat_reply", stage="text:7", text="roof is mended")
        expect(live).to_have_text("<b>The roof is mended")
        picture(page, "chat-live")
        reply = page.locator("[data-reply]")
        reply.get_by_role("button", name="Stop").press("Enter")
        expect(reply).to_contain_text("was stopped")
        reply.get_by_role("button", name="Try again").press("Enter")
        expect(reply.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.locator("[data-kind=reply]")).to_contain_text("no language model")
    expect(page.locator("[data-reply]")).to_have_count(0)

    page.get_by_role("button", name="Add a text").press("Enter")
    page.get_by_label("Title").fill("Notes")
    page.get_by_label("Text", exact=True).fill("The lift carries two tonnes. The roof leaks.")
    found = violations(page, repository)
    box.fill("Draft a letter about the lift, then build a dashboard of sales: Jan 10, Feb 14")
    box.press("Enter")
    cards = page.locator("[data-item]")
    expect(cards).to_have_count(2)
    for card in (cards.nth(0), cards.nth(1)):
        expect(card).to_have_attribute("data-status", "waiting")
    expect(page.get_by_role("button", name="Go to the question")).to_be_visible()
    visitor.settle()
    picture(page, "chat-question")
    found += violations(page, repository)
    page.get_by_role("button", name="Go to the question").press("Enter")
    expect(cards.nth(0)).to_be_focused()
    cards.nth(0).get_by_role("button", name="Formal").press("Enter")
    expect(cards.nth(0)).to_have_attribute("data-status", "completed")
    expect(page.locator("[data-kind=result]")).to_contain_text("The lift carries two tonnes.")
    cards.nth(1).get_by_role("button", name="Cancel").press("Enter")
    expect(cards.nth(1)).to_have_attribute("data-status", "cancelled")
    cards.nth(1).get_by_role("button", name="Try again").press("Enter")
    expect(cards.nth(1)).to_have_attribute("data-status", "waiting")
    cards.nth(1).get_by_placeholder("Or in your own words").fill(
        "Use a blue and white color scheme"
    )
    cards.nth(1).get_by_role("button", name="Answer", exact=True).press("Enter")
    expect(page.locator("[data-kind=result]")).to_have_count(2)
    built = page.frame_locator("[data-artefact] iframe")
    expect(built.get_by_role("heading", level=1)).to_have_text("Sales")
    frame = page.locator("[data-artefact] iframe").element_handle().content_frame()
    assert frame is not None
    frame.wait_for_load_state()  # its script stands at its end
    built.locator("[data-label=Feb].bar").click()
    expect(built.locator("tr.on")).to_contain_text("Feb")
    expect(page.get_by_role("button", name="Go to the question")).to_have_count(0)
    assert page.locator("main img").count() == 0
    assert page.locator("main b").count() == 0
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        visitor.settle()
        found += violations(page, repository)
        picture(page, f"chat-wide-{scheme}")
    page.set_viewport_size({"width": 320, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(page, "chat-narrow-dark")
    assert found == []


def test_what_is_chosen_while_a_message_is_sent_keeps_the_focus(
    visit: Visit, workspace: dict[str, str], api: Callable[..., Any]
) -> None:
    """The box takes it back only from itself: a slow answer moves nobody away from a question."""
    begun = api("POST", "/api/chat/conversations", {"workspace_id": workspace["id"]})
    page = visit(ADA, f"/chat/{begun['id']}").page
    sent: list[Route] = []
    page.route(re.compile("/messages$"), lambda route: sent.append(route))
    box = page.get_by_role("textbox", name="Message")
    rename = page.get_by_role("button", name="Rename")
    for number, chosen in enumerate((box, rename), 1):
        box.fill("Good morning")
        box.press("Enter")
        while len(sent) < number:
            page.wait_for_timeout(20)
        chosen.focus()
        sent[-1].continue_()
        expect(box).to_have_value("")
        expect(chosen).to_be_focused()


def test_conversations_are_listed_renamed_and_deleted(
    visit: Visit, workspace: dict[str, str], api: Callable[..., Any], repository: Path
) -> None:
    """Also by another member's eyes, who may write but not delete."""
    begun = api("POST", "/api/chat/conversations", {"workspace_id": workspace["id"]})
    at = f"/api/chat/conversations/{begun['id']}"
    api("POST", f"{at}/messages", {"text": "Is anybody there?", "mode": "reply"})
    bob = visit(BOB, f"/chat/{begun['id']}", allow=(r"404 .*/api/chat/conversations/",))
    expect(bob.page.locator("[data-kind=reply]")).to_be_visible()
    expect(bob.page.get_by_role("button", name="Delete")).to_have_count(0)
    visitor = visit(ADA, "/chat")
    page = visitor.page
    row = page.get_by_role("row", name=re.compile("Is anybody there"))
    expect(row).to_contain_text("2 messages")
    visitor.settle()
    found = violations(page, repository)
    picture(page, "chat-list")
    row.get_by_role("link").press("Enter")
    page.get_by_role("button", name="Rename").press("Enter")
    page.get_by_role("textbox", name="Title").fill("<i>Doorbell</i>")
    page.get_by_role("dialog").get_by_role("button", name="Rename").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("<i>Doorbell</i>")

    bob.page.get_by_role("textbox", name="Message").fill("I am")
    bob.page.get_by_role("textbox", name="Message").press("Enter")
    expect(page.locator("[data-kind=message]").nth(1)).to_contain_text("I am")
    page.get_by_role("button", name="Delete").press("Enter")
    asked: list[Route] = []
    page.route(
        re.compile("/api/chat/conversations/[^/]+$"),
        lambda route: (
            asked.append(route) if route.request.method == "DELETE" else route.continue_()
        ),
    )
    page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
    while not asked:
        page.wait_for_timeout(20)
    expect(page.get_by_text("Deleting…")).to_be_visible()
    expect(page.locator("[data-kind]")).to_have_count(0)  # and so none of it is read again
    asked[0].continue_()
    expect(page.get_by_text("Nothing said yet")).to_be_visible()
    bob.page.reload()
    expect(bob.page.get_by_role("heading", level=1)).to_have_text("No such conversation")
    assert found == []
