"""The requests of a first visit, and of an idle tab, whose socket delivers every change."""

import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from playwright.sync_api import Page, Request, WebSocket
from psycopg import ClientCursor

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, Visitor
from tests.e2e.console.worker import HandWorker

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900), pytest.mark.weekly]

#: The request with which a page renews its subscription once a minute.
KEPT = "/rpc/follow_topic"
#: The maximum number of requests of a first visit, with six installed apps, and of its bytes with
#: headers. They take three seconds at 50 kB/s.
FIRST_VISIT = 20
FIRST_LOAD_BYTES = 150_000
#: The maximum number of requests of a quiet page in a minute.
QUIET = 10
#: The pages of the console that show no single object.
LISTS = ("/overview", "/jobs", "/types", "/schedules", "/webhooks")
#: The maximum number of bytes of a row in a list that is read again, and of the rest of the list,
#: and of reads of problems in a minute.
ROW_BYTES = 700
REST_BYTES = 1500
PROBLEMS = 4
#: Number of jobs of each session. All but one of the jobs run, and one waits for its retry.
JOBS = 50
STEP_MS = 2000  # in the page's time, and shorter than a reply's timeout
STEPS_TO_REST = 8  # longer than a heartbeat's interval
STEPS = 45  # in all pages together shorter than a token's life


#: The message of Realtime when a topic's messages begin to arrive.
READY = "Replication connection established"
ASKS, REPLY = {"heartbeat", "phx_join"}, {"phx_reply"}
HIDE = """() => {
  Object.defineProperty(document, "visibilityState", { value: "hidden" });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


class _Heart:
    """Advances a page's clock in steps, and waits after each for the server's replies."""

    def __init__(self, page: Page) -> None:
        page.clock.install()
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
        if isinstance(frame, bytes):
            return  # a message of a topic, if the page's socket was opened late
        _, ref, topic, event, payload = json.loads(frame)
        if event in events:
            noted(str(ref))
        if event == "phx_join":
            self._waiting.add(topic)
        if event == "phx_leave" or (event == "system" and READY in str(payload)):
            self._waiting.discard(topic)

    def beat(self, steps: int = 1) -> None:
        """Advance the page's clock in steps, and wait after each for the server's replies."""
        for _ in range(steps):
            self._page.clock.run_for(STEP_MS)
            while self._waiting:
                self._page.wait_for_timeout(5)

    def rest(self, visitor: Visitor, path: str) -> None:
        """Open a page, and wait until it has joined its topics."""
        visitor.open(path)
        visitor.settle()
        self.beat(STEPS_TO_REST)


def _requests_of(page: Page, heart: _Heart, *, steps: int = STEPS) -> list[str]:
    """Return the page's requests and new sockets while its clock advances."""
    asked: list[str] = []

    page.on("request", lambda one: asked.append(f"{one.method} {one.url.partition('?')[0]}"))
    page.on("websocket", lambda one: asked.append(f"socket {one.url.partition('?')[0]}"))
    heart.beat(steps)
    return [*asked]  # the page's later requests change the list


def test_a_quiet_page_reads_rarely(visit: Visit) -> None:
    """A page of the console reads few times a minute if no job changes, and not while hidden."""
    visitor = visit()
    heart = _Heart(visitor.page)
    requested = {}
    for path in (*LISTS, "/jobs?grouped=1"):
        heart.rest(visitor, path)
        requested[path] = _requests_of(visitor.page, heart, steps=60_000 // STEP_MS)
    assert max(map(len, requested.values())) <= QUIET, requested
    visitor.page.evaluate(HIDE)
    heart.beat()
    assert [one for one in _requests_of(visitor.page, heart) if KEPT not in one] == []


def test_a_busy_list_reads_what_it_shows(visit: Visit, worker: HandWorker) -> None:
    """A list of jobs that change reads only the columns that it shows, and problems more rarely."""
    visitor = visit()
    heart = _Heart(visitor.page)
    worker.enqueue_many(20)
    [running] = worker.lease()
    heart.rest(visitor, "/jobs")
    finished: list[Request] = []
    visitor.page.on("requestfinished", lambda request: finished.append(request))
    for step in range(60_000 // STEP_MS):
        worker.report(running, step)
        worker.enqueue_many(5)
        worker.complete(worker.lease(5))
        heart.beat()
    # a busy server may reject a read, which the page then repeats
    answered = [(one, response) for one in finished if (response := one.response()) and response.ok]
    assert len([one for one, _ in answered if "explain_queue" in one.url]) <= PROBLEMS
    rows: list[int] = []
    for request, response in [each for each in answered if "list_jobs" in each[0].url]:
        jobs = response.json()["jobs"]
        changed = [len(json.dumps(job)) for job in jobs if len(job) > 1]
        assert request.sizes()["responseBodySize"] - sum(changed) < REST_BYTES
        rows += changed
    assert len(rows) > 50
    assert max(rows) < ROW_BYTES


#: Rows of each app whose jobs have not ended.
WORK = """
insert into plans (id, workspace_id, prompt, speed_vs_detail, job_id, created_by)
values (%(id)s, %(workspace)s, 'A fair', 'all_details_but_slow', %(plan)s, %(ada)s),
  (%(ended)s, %(workspace)s, 'A fair', 'all_details_but_slow', %(ended_plan)s, %(ada)s);
insert into trainings (id, workspace_id, title, object_key)
values (%(id)s, %(workspace)s, 'Paper', concat_ws('/', 'workspaces', %(workspace)s, %(id)s));
insert into training_jobs (training_id, job_type, job_id, workspace_id)
values (%(id)s, 'transcription', %(training)s, %(workspace)s);
insert into accounts (id, workspace_id, name, domain)
values (%(id)s, %(workspace)s, 'A', 'a.example');
insert into jobs (workspace_id, job_type, payload, status, scheduled_for)
values (%(workspace)s, 'enrich_account', jsonb_build_object('account_id', %(id)s), 'pending',
  now() + interval '1 hour');
insert into beacon_jobs (
  id, workspace_id, jobspec_id, version, spec, queue_job_id)
values (%(id)s, %(workspace)s, 'trivia', '1', '{"benchmark": {"name": "Trivia"},
  "constraints": {"regions": ["us-east"], "min_regions": 1}, "questions": ["Why?"]}',
  %(beacon)s);
insert into beacon_outbox (job_id, workspace_id, message, status)
values (%(id)s, %(workspace)s, '{}', 'published');
insert into beacon_executions (workspace_id, job_id, jobspec_id, region)
values (%(workspace)s, %(id)s, 'trivia', 'us-east');
"""


@pytest.fixture
def paths(worker: HandWorker) -> list[str]:
    """The paths of pages with unfinished work, and of pages without.

    `make test` opens every fourth page. The last page has no work.
    """
    work, ended = str(uuid4()), str(uuid4())
    jobs = [worker.enqueue(session_id=f"chat_{ended}"), worker.enqueue()]
    for lease in worker.lease(len(jobs)):
        worker.settle(lease)
    ids: dict[str, Any] = {"id": work, "workspace": worker.workspace_id, "ada": ADA.id}
    for name in ("plan", "chat", "training", "beacon"):
        [ids[name], *_] = worker.enqueue_all([{"session_id": f"{name}:{work}"}] * JOBS)
        for lease in worker.lease(JOBS):
            if lease["job"]["id"] == ids[name]:
                worker.settle(lease, "retry", retry_after_seconds=3600)
    chat = f"chat:{work}"
    for session, job in ((chat, ids["chat"]), (f"chat_{ended}", jobs[0])):
        worker.write_chat(session, job, message="?")
    ids |= {"ended": ended, "ended_plan": jobs[1]}
    ClientCursor(worker.connection).execute(WORK, ids)
    paths = [
        *(f"/chat/session#{session}" for session in (chat, f"chat_{ended}")),
        *(f"/plans/{plan}" for plan in (work, ended)),
        *(f"/{pages}/{work}" for pages in ("trainings", "benchmarks", "accounts")),
        *("/plans", "/chat", "/trainings", "/trainings/monitor", "/benchmarks", "/accounts"),
        *("/workspace/settings/api", "/contacts"),
    ]
    return paths if "WEEKLY" in os.environ else paths[2::4]


def test_an_idle_tab_sends_no_requests(visit: Visit, paths: list[str]) -> None:
    """While the clock of each page advances, no request repeats and no socket opens again.

    The position in each topic equals that of the server, so the page missed nothing.
    """
    visitor = visit(ADA, "/plans")
    page = visitor.page
    heart = _Heart(page)
    repeated = {}
    for path in paths:
        heart.rest(visitor, path)
        asked = _requests_of(page, heart)
        repeated[path] = [one for one in asked if asked.count(one) > 1 and KEPT not in one]
    assert repeated == {path: [] for path in paths}
    # A hidden page without work has no subscription.
    page.evaluate(HIDE)
    heart.beat()
    assert _requests_of(page, heart) == []


def _first_visit(visitor: Visitor, path: str) -> dict[str, int]:
    """Return the bytes of each address that a first visit requests.

    A page repeats its reads.
    """
    finished: list[Request] = []
    visitor.page.on("requestfinished", lambda request: finished.append(request))
    visitor.open(path)
    visitor.settle()
    sizes = {urlsplit(request.url).path: request.sizes() for request in finished}
    visitor.page.close()
    return {
        path: size["responseHeadersSize"] + size["responseBodySize"] for path, size in sizes.items()
    }


def test_a_first_visit_sends_few_requests(
    visit: Visit, worker: HandWorker, paths: list[str]
) -> None:
    """Every page is drawn after few requests and bytes."""
    worker.enqueue()
    job = worker.lease_one()["job"]
    every = (*LISTS, f"/jobs/{job['id']}", f"/types/{job['job_type']}", *paths)
    requested = {path: _first_visit(visit(ADA, ""), path) for path in every}
    assert max(map(len, requested.values())) <= FIRST_VISIT, requested
    assert sum(requested["/jobs"].values()) < FIRST_LOAD_BYTES
