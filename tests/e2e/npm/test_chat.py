"""A streaming chat that follows its page: the AI SDK's `useChat` in Next.js, with jobs."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect

from infra.release.wheels import Environment
from minutehand.local.users import ADA
from tests.e2e.console.people import PATIENCE_MS
from tests.e2e.npm.site import Site, running_site, write_project
from tests.support.patience import until

#: The first test builds the wheel and the project, and starts its stack.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def site(
    environment: Environment, unpacked: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A running project that follows the page, with the wheel's stack."""
    folder = tmp_path_factory.mktemp("site") / "my-chat"
    write_project(folder, environment, unpacked)
    with running_site(folder, environment) as running:
        yield running


@pytest.fixture(scope="module")
def signed_in(browser: Browser, site: Site) -> StorageState:
    """The cookies of Ada, who has signed in with the page's form."""
    with closing(browser.new_context(base_url=site.url)) as context:
        page = context.new_page()
        page.goto("/")
        page.get_by_placeholder("email").fill(ADA.email)
        page.get_by_placeholder("password").fill(site.stack.demo_password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Message").wait_for()
        return context.storage_state()


@pytest.fixture
def context(browser: Browser, site: Site, signed_in: StorageState) -> Iterator[BrowserContext]:
    """A browser in which Ada is signed in. No page may log errors."""
    context = browser.new_context(base_url=site.url, storage_state=signed_in)
    context.set_default_timeout(PATIENCE_MS)
    result: list[str] = []
    context.on("console", lambda message: result.append(f"{message.type}: {message.text}"))
    context.on("weberror", lambda error: result.append(str(error.error)))
    yield context
    context.close()
    assert result == []


class Tab:
    """A browser tab with one chat."""

    def __init__(self, context: BrowserContext, chat: str, query: str = "") -> None:
        self.page: Page = context.new_page()
        self.page.goto(f"/paced?{query}#{chat}")

    def does(self, button: str) -> None:
        """Press a button in the tab."""
        self.page.get_by_role("button", name=button).click()

    def shows(self, *messages: str | re.Pattern[str]) -> None:
        """Wait until the chat has exactly these messages."""
        expect(self.page.locator("li")).to_have_text(messages)

    def is_now(self, status: str) -> None:
        """Wait for the chat's status or error."""
        expect(self.page.locator("output")).to_have_text(status)


@pytest.fixture
def chat() -> str:
    """The id of a new chat for each test."""
    return f"chat-{uuid4().hex}"


@pytest.fixture
def tab(context: BrowserContext, chat: str) -> Callable[..., Tab]:
    """Open a browser tab with the chat."""
    return lambda query="": Tab(context, chat, query)


def test_the_chat_shows_each_word_once_through_a_reload(context: BrowserContext) -> None:
    page = context.new_page()
    page.goto("/")
    line = "one two three four five six seven eight nine ten"
    answer = page.locator("p").nth(1)

    page.get_by_label("Message").fill(line)
    page.get_by_role("button", name="Send").click()
    expect(answer).to_contain_text("said: one two")
    before = answer.inner_text()
    page.reload()

    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(answer).to_contain_text(before)
    expect(answer).to_have_text(f"assistant You said: {line}")
    expect(page.locator("p")).to_have_count(2)


def test_an_answer_that_fails_or_cannot_be_read_is_an_error(
    tab: Callable[..., Tab], site: Site, chat: str, context: BrowserContext
) -> None:
    """If a reply cannot be read, the chat shows an error instead of asking the model again."""
    shown = tab()
    shown.does("Send")
    site.say(chat, "say one", "fail the model is away")
    shown.is_now("the model is away")
    shown.shows("Question", "one")
    context.route("**/rpc/session_output", lambda route: route.fulfill(json=None))

    tab().is_now("The Data API did not respond")
    assert site.jobs(chat) == [("failed", 1)]


@pytest.mark.parametrize(
    ("approval", "end", "shown"),
    [
        ("approved", "fail the bank is away", "refund {} output-error"),
        ("approved", "stop", "refund {} output-error"),
        ("JOB:t", "end", "refund {} output-denied"),
        ("other", "end", "refund {}?ApproveDeny"),
    ],
)
def test_a_tool_call_without_output_closes_with_its_job(
    tab: Callable[..., Tab], site: Site, chat: str, approval: str, end: str, shown: str
) -> None:
    """An approved tool call of a failed or stopped job is an error, and not shown as denied.

    A completed job denies a call whose approval id begins with the job's id, and no other.
    """
    items: list[dict[str, object]] = [
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "refund", "input": {}},
        {"type": "tool-approval-request", "toolCallId": "t", "approvalId": approval},
    ]
    asked = "refund {}?ApproveDeny"
    if approval == "approved":
        items.append({"type": "tool-approval-response", "approvalId": approval, "approved": True})
        asked = "refund {} approval-responded"
    site.say(chat, *(f"item {json.dumps(item)}" for item in items))
    page = tab()
    page.does("Send")
    page.shows("Question", asked)

    if end == "stop":
        page.does("Stop")
    else:
        site.say(chat, end)

    for each in (page, tab()):
        each.shows("Question", shown)
        each.is_now(end.removeprefix("fail ") if "fail" in end else "ready")


@pytest.mark.parametrize("payload", ["", "whole"])
def test_items_of_a_stream_are_parts_of_the_answer(
    tab: Callable[..., Tab], site: Site, chat: str, payload: str
) -> None:
    """Reasoning, tools, sources and text of a reply arrive as parts of the AI SDK's message.

    They are shown after a reload. The text names its attempt, because versions 5 and 6 of the AI
    SDK keep the text of an earlier attempt.
    """
    items: list[dict[str, object]] = [
        {"type": "reasoning-start", "id": "r"},
        {"type": "reasoning-delta", "id": "r", "delta": "think"},
        {"type": "reasoning-end", "id": "r"},
        {"type": "tool-input-available", "toolCallId": "t", "toolName": "search", "input": {}},
        {"type": "tool-output-available", "toolCallId": "t", "output": "found"},
        {"type": "source-url", "sourceId": "s", "url": "https://example.com"},
        {"type": "text-start", "id": "x"},
        {"type": "text-delta", "id": "x", "delta": "The answer"},
        {"type": "text-end", "id": "x"},
        {"score": 1},
        {"a": 1, "type": "row"},
        {"type": "text-delta", "id": "x", "delta": "after its end"},
    ]
    site.say(chat, *(f"item {json.dumps(item)}" for item in items), "end")
    pattern = r'\(think\) tool-search .*"found".* \[https://example.com\] The answer'
    pattern += r'{"score":1}{"a":1,"type":"row"}{.*"delta":"after its end".*}'
    answer = re.compile(pattern)
    shown = tab(payload)
    shown.does("Send")
    shown.shows("Question", answer)
    shown.is_now("ready")
    expect(shown.page.locator("[data-attempt='1']")).to_have_text("The answer")
    shown.does("Send")

    shown.shows("Question", answer, "Question", answer)
    shown.is_now("ready")
    tab(payload).shows("Question", answer, "Question", answer)


def test_a_tool_runs_after_its_approval_only(tab: Callable[..., Tab]) -> None:
    first, second = (tab("type=jobs.refund") for _ in range(2))
    asked = 'I need your approval.refund {"order":"Question"}?ApproveDeny'
    paid, denied = (
        f"I need your approval.refund {end}"
        for end in (
            '"Question is refunded" output-availableQuestion is refunded',
            '{"order":"Question"} output-denied',
        )
    )
    first.does("Send")
    first.shows("Question", asked)
    second.page.reload()
    second.shows("Question", asked)
    second.does("Approve")
    for each in (first, second):
        each.shows("Question", paid)
        each.is_now("ready")
    first.does("Send")
    first.shows("Question", paid, "Question", asked)
    first.does("Deny")
    first.shows("Question", paid, "Question", denied)
    first.is_now("ready")

    # After the job's end, the question has no buttons.
    first.does("Send")
    first.shows("Question", paid, "Question", denied, "Question", asked)
    second.page.reload()
    second.shows("Question", paid, "Question", denied, "Question", asked)
    first.does("Stop")

    for each in (first, second, tab("type=jobs.refund")):
        each.shows("Question", paid, "Question", denied, "Question", denied)


def test_a_reply_without_content_is_no_message(
    tab: Callable[..., Tab], site: Site, chat: str
) -> None:
    shown = tab()
    shown.does("Send")
    until(lambda: site.jobs(chat) == [("processing", 1)])
    shown.does("Stop")
    until(lambda: site.jobs(chat) == [("cancelled", 1)])

    reloaded = tab()
    site.say(chat, "say one", "end")
    reloaded.does("Send")
    reloaded.shows("Question", "Question", "one")


@pytest.mark.weekly(only=True)
def test_an_answer_is_regenerated_and_continued(
    tab: Callable[..., Tab], site: Site, chat: str
) -> None:
    """A regenerated reply is a new job.

    A continued reply extends its message, also after a reload.
    """
    shown = tab()
    shown.does("Send")
    site.say(chat, "say one", "end")
    shown.shows("Question", "one")
    shown.is_now("ready")
    site.say(chat, "say two", "end", mode="w")

    shown.does("Again")
    shown.shows("Question", "two")
    shown.is_now("ready")
    site.say(chat, "say three", mode="w")
    shown.does("Continue")

    shown.shows("Question", "two three")
    tab().shows("Question", "two three")
    site.say(chat, "say four", "end")
    shown.shows("Question", "two three four")
    shown.is_now("ready")
    tab().shows("Question", "two three four")
    assert [status for status, _ in site.jobs(chat)] == ["completed"] * 3


def test_a_server_action_s_job_is_rendered_by_the_server_and_live(
    context: BrowserContext, site: Site
) -> None:
    page = context.new_page()
    page.goto("/greet")
    page.get_by_role("button", name="Greet").click()
    page.wait_for_url("**/jobs/*")
    expect(page.locator("p")).to_have_text(re.compile('completed .*"Hello, Ada!".* live'))

    rendered = context.request.get(page.url).text()

    assert re.search("completed.*Hello, Ada!", rendered)
