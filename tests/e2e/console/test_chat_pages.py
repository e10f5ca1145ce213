"""The chat app's pages: replies while they are written, work as cards, questions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import (
    fits,
    paused,
    picture,
    violations,
    violations_in_both_schemes,
    write_live,
)
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
    expect(page).to_have_url(re.compile(r"/chat/session#guest_[0-9a-f]{64}$"))
    box = page.get_by_role("textbox", name="Message")
    with paused(stack, workspace["id"], "chat_reply"):
        box.fill(HOSTILE)
        box.press("Enter")
        expect(box).to_have_value("")
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
    expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
    sent: list[Route] = []
    page.route(re.compile("/api/chat$"), lambda route: sent.append(route))
    box.fill("Good morning")
    box.press("Enter")
    while not sent:
        page.wait_for_timeout(20)
    box.fill("And besides")
    sent[0].continue_()
    page.unroute(re.compile("/api/chat$"))
    expect(page.locator("[data-kind=reply]")).to_contain_text("no language model")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_enabled()
    expect(box).to_have_value("And besides")  # what is written during the sending stays

    page.get_by_role("button", name="Add a text").press("Enter")
    page.get_by_label("Title").fill("Notes")
    page.get_by_label("Text", exact=True).fill("The lift carries two tonnes. The roof leaks.")
    found = violations(page, repository)
    box.fill("Draft a letter about the lift, then build a dashboard of sales: Jan 10, Feb 14")
    box.press("Enter")
    cards = page.locator("[data-item]")
    expect(cards).to_have_count(2)
    expect(cards.nth(0)).to_have_attribute("data-status", "completed")
    expect(cards.nth(1)).to_have_attribute("data-status", "waiting")
    expect(page.get_by_role("button", name="Go to the question")).to_be_visible()
    visitor.settle()
    picture(page, "chat-question")
    found += violations(page, repository)
    page.get_by_role("button", name="Go to the question").press("Enter")
    expect(cards.nth(1)).to_be_focused()
    expect(page.locator("[data-kind=result]")).to_contain_text("LANGUAGE_MODEL_URL")
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
    found += violations_in_both_schemes(visitor, repository, pictured="chat-wide")
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    picture(page, "chat-narrow-dark")
    assert found == []


def test_sessions_are_listed_cancelled_in_and_deleted(
    visit: Visit, workspace: dict[str, str], api: Callable[..., Any], repository: Path
) -> None:
    """Also by another member's eyes, who may write and cancel but not delete."""
    body = {"messages": [{"role": "user", "content": "Build a chart: Jan 10, Feb 14"}]}
    made = api("POST", "/api/chat", {**body, "workspace_id": workspace["id"]})
    at = f"/chat/session#{made['sessionId']}"
    bob = visit(BOB, at, allow=(r"404 .*/api/",))
    expect(bob.page.locator("[data-kind=message]")).to_contain_text("A member")
    expect(bob.page.get_by_role("button", name="Delete")).to_have_count(0)
    card = bob.page.locator("[data-item]")
    card.get_by_role("button", name="Cancel").press("Enter")
    expect(card).to_have_attribute("data-status", "cancelled")
    visitor = visit(ADA, "/nowhere")
    page = visitor.page
    # a list that was read before the session began, and shown before its events were followed
    before: dict[str, list[Any]] = {"sessions": []}
    page.route("**/api/chat/sessions?*", lambda route: route.fulfill(json=before), times=1)
    visitor.go("/chat")
    row = page.get_by_role("row", name=re.compile("Build a chart"))
    expect(row).to_contain_text("2 messages")
    visitor.settle()
    found = violations(page, repository)
    picture(page, "chat-list")
    row.get_by_role("link").press("Enter")
    bob.page.get_by_role("textbox", name="Message").fill("I did")
    bob.page.get_by_role("textbox", name="Message").press("Enter")
    expect(page.locator("[data-kind=message]").nth(1)).to_contain_text("I did")
    page.get_by_role("button", name="Delete").press("Enter")
    asked: list[Route] = []
    page.route(
        re.compile("/api/chat$"),
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
    expect(bob.page.get_by_text("Nothing was said yet")).to_be_visible()
    assert found == []


def test_a_guest_needs_nothing_but_the_link(
    visit: Visit, stack: RunningStack, workspace: dict[str, str], repository: Path
) -> None:
    """By `open_guest_session`: empty, talked in, found again, closed; the key is in no request."""
    with stack.connect() as connection:
        row = connection.execute(
            "select public.open_guest_session(%s)", (workspace["id"],)
        ).fetchone()
    assert row is not None
    key = row[0]["session_id"]
    small = {"width": 320, "height": 700}
    visitor = visit(None, "/guest/chat#guest_1", allow=(r"status of 404 ",), viewport=small)
    page = visitor.page
    closed = page.get_by_role("alert")
    expect(closed).to_contain_text("This link leads to no open conversation")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(page.url.replace("guest_1", key))
    box = page.get_by_role("textbox", name="Message")
    box.fill("Good morning")
    box.press("Enter")
    expect(page.locator("[data-kind=message]")).to_contain_text("You")
    expect(page.locator("[data-kind=reply]")).to_contain_text("no language model")
    expect(page.get_by_role("heading", level=1)).to_have_text("Good morning")
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)
    visitor.settle()
    found = violations(page, repository)
    picture(page, "chat-guest-narrow")
    fits(page)
    page.reload()
    expect(page.locator("[data-kind=reply]")).to_be_visible()
    box.fill("Are you still there?")
    with stack.connect() as connection:
        connection.execute("select public.close_guest_session(%s)", (key,))
    page.keyboard.press("Enter")  # the page may have looked before, and the box be gone
    expect(closed).to_contain_text("This link leads to no open conversation")
    assert asked
    assert [url for url in asked if key in url.partition("#")[0]] == []
    assert found == []
