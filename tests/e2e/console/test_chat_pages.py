"""Pages of the chat app: live answers, cards of background work with questions, and built pages."""

import re
from uuid import uuid4

import pytest
from playwright.sync_api import APIResponse, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, violations
from tests.e2e.console.people import ADA, NETWORK, press
from tests.e2e.console.worker import HandWorker
from tests.support.engine import piece

pytestmark = pytest.mark.browser

HOSTILE = "The roof <img src=x onerror=alert(1)> leaks **badly**."
MARKDOWN = """Two **ways** [here](javascript:alert(1)) <img src=x onerror=alert(1)>

1. `pip`
2. [docs](https://example.com/)

```python
print("<b>")
```
"""


def test_no_content_breaks_the_page(visit: Visit, worker: HandWorker) -> None:
    """Text that is nested too deeply is shown unchanged. Hebrew text is aligned to the right."""
    deep = ">" * 5001 + " deep"
    session = f"chat_{uuid4()}"
    hebrew = "שלום **עולם**.\n\n- [x] כן\n\n| 1 |\n|:-:|\n| 2 |"
    job = worker.enqueue(session_id=session)
    worker.write_chat(session, job, message="שלום.", reply=deep, info=hebrew)
    page = visit(ADA, f"/chat/session#{session}").page

    expect(page.locator("[data-type=reply]")).to_contain_text(deep)
    expect(page.locator("[data-type=info] li")).to_have_text("☑ כן")
    expect(page.locator("[data-type=info] td")).to_have_css("text-align", "center")
    for text in ("[data-type=message] p", "[data-type=info] .markdown"):
        expect(page.locator(text).first).to_have_css("direction", "rtl")
    page.get_by_role("textbox", name="Message").press("Enter")


def test_a_chat_with_work(visit: Visit) -> None:
    """A user chats, answers a question and opens the page that a job built, by keyboard alone."""
    visitor = visit(ADA, "/chat")
    page = visitor.page
    expect(page.get_by_text("No conversations yet")).to_be_visible()
    press(page, "New conversation")
    expect(page).to_have_url(re.compile(r"/chat/session#chat_[0-9a-f-]{36}$"))
    box = page.get_by_role("textbox", name="Message")
    expect(box).to_be_focused()
    box.fill(HOSTILE)
    box.press("Enter")
    expect(page.locator("[data-type=message]")).to_contain_text(HOSTILE)
    expect(page.locator("[data-type=reply]")).to_contain_text("no language model is connected")
    others = page.get_by_role("navigation", name="Conversations")
    expect(others.get_by_role("link")).to_have_attribute("aria-current", "page")
    others.get_by_role("searchbox").fill("THE ROOF")
    expect(others.locator("a time")).to_have_count(1)  # distinguishes equal titles
    others.get_by_role("searchbox").fill("cellar")
    expect(others.get_by_role("link")).to_have_count(0)
    others.get_by_role("searchbox").fill("")
    press(page, "Retry")
    expect(page.locator("[data-type=message]")).to_have_count(2)
    expect(page.locator("[data-type=reply]")).to_have_count(2)
    page.get_by_role("button", name="Edit").last.press("Enter")
    expect(box).to_be_focused()
    expect(box).to_have_value(HOSTILE)
    box.fill("Build a dashboard")
    box.press("Enter")
    expect(others.get_by_role("link")).to_have_count(2)
    expect(page.locator("[data-type=message]")).to_contain_text(["The roof", "Build a dashboard"])
    card = page.locator("[data-work]")
    expect(card).to_have_attribute("data-status", "waiting")
    found = violations(page)
    card.get_by_placeholder("Or in your own words").fill("Use a blue and white color scheme")
    press(card, "Answer", exact=True)
    built = page.frame_locator(".chat-page iframe")
    expect(built.get_by_role("heading", level=1)).to_have_text("Sample dashboard")
    expect(card).to_have_attribute("data-status", "completed")
    box.fill("Build a timeline")
    box.press("Enter")
    other = page.locator("[data-work]").nth(1)
    press(other, "Cancel")
    expect(other).to_have_attribute("data-status", "cancelled")
    assert page.locator("main img").count() == 0
    page.set_viewport_size({"width": 320, "height": 700})
    fits(page)
    page.get_by_role("link", name="Chat").first.press("Enter")
    expect(page.get_by_role("row", name=re.compile("The roof"))).to_be_visible()
    assert found == []


def test_a_message_that_is_sent_again_is_one_message(visit: Visit) -> None:
    """A chat message whose response was lost is sent again with its idempotency key.

    It is stored once.
    """
    visitor = visit(ADA, f"/chat/session#chat_{uuid4()}", allow=(NETWORK,))
    page = visitor.page
    lost: list[APIResponse] = []

    def lose(route: Route) -> None:
        if route.request.method != "POST":
            route.fallback()
            return
        lost.append(route.fetch())
        route.abort()

    page.route("**/api/chat", lose)
    box = page.get_by_role("textbox", name="Message")
    box.fill("Hello")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("The server cannot be reached")
    expect(box).to_have_value("Hello")
    page.unroute("**/api/chat")
    with page.expect_response(lambda one: one.url.endswith("/api/chat")) as second:
        box.press("Enter")
    expect(page.locator("[data-type=reply]")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)
    [first] = lost
    assert (first.status, first.json()) == (202, second.value.json())


def test_an_answer_is_streamed_stopped_retried_and_fails(visit: Visit, worker: HandWorker) -> None:
    """A chat answer appears live as Markdown.

    It keeps its text after a stop and until a retry continues it, and it shows an error.
    """
    session = f"chat_{uuid4()}"
    job = worker.enqueue(session_id=session)
    worker.write_chat(session, job, message="How?")
    visitor = visit(ADA, f"/chat/session#{session}")
    page = visitor.page
    answer = page.locator("[data-type=answer]")
    lease = worker.lease_one()
    worker.say(lease, piece(MARKDOWN))
    expect(answer.locator("strong")).to_have_text("ways")
    expect(answer.locator("pre")).to_have_text('print("<b>")\n')
    expect(answer.locator("pre .hljs-string")).to_have_text('"<b>"')
    expect(answer.get_by_role("link")).to_have_text("docs")
    assert answer.locator("img, script, b").count() == 0
    tab = visitor.another_tab(page.url)
    expect(tab.locator("[data-type=answer] strong")).to_have_text("ways")

    press(page, "Stop")
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    assert worker.report(lease) == "cancel"
    worker.settle(lease, "cancelled")
    for each in (page, tab):
        expect(each.locator("[data-type=answer]")).to_contain_text("Stopped.")
        expect(each.locator("[data-type=answer] strong")).to_have_text("ways")
    page.clock.install()
    press(answer, "Retry")
    expect(answer).to_have_attribute("data-status", "pending")
    expect(answer.locator("strong")).to_have_text("ways")
    page.clock.run_for(10_000)
    expect(answer).to_contain_text("Nothing new yet.")
    lease = worker.lease_one()
    worker.say(lease, piece("Once more", attempt=2))
    expect(answer).to_have_text("Once more")
    page.clock.run_for(10_000)
    expect(answer).to_contain_text("Nothing new yet.")
    worker.settle(lease, "failed", error={"type": "Fail", "message": "The model is away."})
    expect(answer.get_by_role("alert")).to_have_text("The model is away.")
    expect(page.get_by_text("The model is away.")).to_have_count(1)
    expect(answer).to_contain_text("Once more")
    assert violations(page) == []
