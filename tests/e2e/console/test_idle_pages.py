"""An idle tab sends no requests, because its socket delivers every change."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Self
from uuid import uuid4

import httpx
import pytest
from playwright.sync_api import Page, Request, WebSocket, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker, write_chat
from tests.support.stacks import RunningStack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

#: A subscription is renewed once a minute.
KEPT = "/rpc/follow_topic"
LATER = {"delay_seconds": 3600}
STEP_MS = 2000  # in the page's time, shorter than the timeout of a reply
STEPS_TO_REST = 8  # longer than a heartbeat, whose reply follows earlier messages
STEPS = 45  # for all pages together less than the life of a token


#: Message of Realtime once a topic's messages arrive.
READY = "Replication connection established"
ASKS, REPLY = {"heartbeat", "phx_join"}, {"phx_reply"}
HIDE = """() => {
  Object.defineProperty(document, "visibilityState", { value: "hidden" });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


class _Heart:
    """Heartbeats, calls and joins of a page, answered outside its clock, where they were late."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._waiting: set[Any] = set()
        page.on("websocket", self._listen)
        page.on("request", self._ask)
        page.on("requestfinished", self._end)
        page.on("requestfailed", self._end)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: self._note(frame, ASKS, self._waiting.add))
        socket.on("framereceived", lambda frame: self._note(frame, REPLY, self._waiting.discard))
        socket.on("close", lambda _: self._waiting.clear())

    def _ask(self, request: Request) -> None:
        if "/rest/" in request.url or "/api/" in request.url:
            self._waiting.add(request)

    def _end(self, request: Request) -> None:
        self._waiting.discard(request)

    def _note(self, frame: Any, events: set[str], noted: Callable[[Any], None]) -> None:
        _, ref, topic, event, payload = json.loads(frame)
        if event in events:
            noted(str(ref))
        if event == "phx_join":
            self._waiting.add(topic)
        if event == "phx_leave" or (event == "system" and READY in str(payload)):
            self._waiting.discard(topic)

    def beat(self) -> None:
        """Advance the page's clock by a step, then let the server respond."""
        self._page.clock.run_for(STEP_MS)
        while self._waiting:
            self._page.wait_for_timeout(5)


def _requests_of(page: Page) -> list[str]:
    """Record the page's requests and new sockets from now on."""
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(f"{request.method} {request.url.partition('?')[0]}")

    page.on("request", note)
    page.on("websocket", lambda socket: asked.append(f"socket {socket.url.partition('?')[0]}"))
    return asked


class _Ada:
    """Creates the rows that the pages show, through the routes of the apps."""

    def __init__(self, stack: RunningStack, workspace_id: str) -> None:
        self.workspace = {"workspace_id": workspace_id}
        headers = stack.headers(stack.sign_in(ADA.email))
        self._http = httpx.Client(base_url=stack.api_url, headers=headers, timeout=60)
        self._data = f"{stack.supabase_url}/rest/v1/"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def post(self, path: str, body: Any, **headers: str) -> dict[str, Any]:
        answer = self._http.post(path, json=body, headers=headers)
        assert answer.is_success, answer.text
        made: dict[str, Any] = answer.json()
        return made

    def chat(self) -> str:
        session = f"chat_{uuid4()}"
        body = {"messages": [{"role": "user", "content": "Hello"}], **self.workspace}
        self.post("/api/chat", body, **{"X-Session-Id": session})
        return session

    def account(self) -> str:
        answer = self._http.post(
            f"{self._data}accounts",
            json={"name": "Alpha", "domain": "alpha.example", **self.workspace},
            headers={"Prefer": "return=representation"},
        )
        return str(answer.raise_for_status().json()[0]["id"])


def _repeated(heart: _Heart, page: Page) -> list[str]:
    """Return the requests of a page that repeat after it has come to rest."""
    for _ in range(STEPS_TO_REST):
        heart.beat()  # its topic is joined, and later changes are read
    asked = _requests_of(page)
    for _ in range(STEPS):
        heart.beat()
    return [one for one in asked if asked.count(one) > 1 and KEPT not in one]


def test_a_page_of_work_in_which_nothing_happens_sends_no_requests(
    visit: Visit, stack: RunningStack, workspace: dict[str, str], worker: HandWorker
) -> None:
    """Its topics' positions prove that it missed nothing."""
    session, plan = f"chat_{uuid4()}", str(uuid4())
    write_chat(stack, workspace, session, worker.enqueue(**LATER, session_id=session), message="?")
    with stack.connect() as connection:
        connection.execute(
            "insert into public.plans (id, workspace_id, prompt, speed_vs_detail, job_id,"
            " created_by) values (%s, %s, 'A fair', 'all_details_but_slow', %s, %s)",
            (plan, workspace["id"], worker.enqueue(**LATER), ADA.id),
        )
    visitor = visit(ADA, "/plans")
    visitor.page.clock.install()
    heart = _Heart(visitor.page)
    repeated = {}
    for path in (f"/chat/session#{session}", f"/plans/{plan}", "/plans", "/accounts"):
        visitor.open(path)
        visitor.settle()
        repeated[path] = _repeated(heart, visitor.page)
    assert [*repeated.values()] == [[]] * 4


def test_an_idle_tab_sends_no_requests(
    visit: Visit, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """While each page's clock advances, no request repeats and no socket is opened again.

    A hidden page, or the page of an ended plan, keeps no subscription.
    """
    with _Ada(stack, workspace["id"]) as ada:
        asked_for = {"prompt": "A fair", "speed_vs_detail": "fast_but_skip_details"}
        plan = ada.post("/api/plans", {**asked_for, **ada.workspace})["plan_id"]
        session, account = ada.chat(), ada.account()
    visitor = visit(ADA, "/plans")
    page = visitor.page
    visitor.go(f"/plans/{plan}")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    page.clock.install()
    heart = _Heart(page)
    repeated, held = {}, {}
    for path in [
        f"/plans/{plan}",
        "/plans",
        "/chat",
        f"/chat/session#{session}",
        "/trainings",
        "/trainings/monitor",
        "/accounts",
        f"/accounts/{account}",
        "/contacts",
        "/workspace/settings/api",
        "/benchmarks",
    ]:
        visitor.open(path)
        visitor.settle()
        repeated[path] = _repeated(heart, page)
        page.evaluate(HIDE)
        heart.beat()
        asked = _requests_of(page)
        for _ in range(STEPS):
            heart.beat()
        held[path] = [*asked]
    assert [*repeated.values(), *held.values()] == [[]] * 2 * len(held)
