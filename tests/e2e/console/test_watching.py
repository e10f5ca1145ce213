"""Watching a job: every change arrives by itself, whatever happens to the connection."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA, BOB, EVE, NETWORK, Visitor
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


def badge(page: Page) -> Any:
    return page.locator("h1 .badge")


def bar(page: Page) -> Any:
    return page.locator(".job-page > .progress [role=progressbar]")


def freshness(page: Page) -> Any:
    return page.locator(".job-head .freshness")


def is_live(page: Page, timeout: float | None = None) -> None:
    expect(freshness(page)).to_have_attribute("data-freshness", "live", timeout=timeout)


def test_a_job_is_seen_from_pending_to_completed_without_a_reload(
    visit: Visit, worker: HandWorker
) -> None:
    """The demo of the product: the bar moves and the logs arrive."""
    job_id = worker.enqueue({"turn": 1})
    page = visit(ADA, f"/jobs/{job_id}").page
    page.evaluate("window.sameDocument = true")
    expect(badge(page)).to_have_text("Queued")
    is_live(page)

    [lease] = worker.lease()
    expect(badge(page)).to_have_text("Running")
    worker.report(lease, 30, "first line")
    expect(bar(page)).to_have_attribute("aria-valuenow", "30")
    worker.report(lease, 70, "second line")
    expect(bar(page)).to_have_attribute("aria-valuenow", "70")
    expect(page.locator(".log-line")).to_have_count(2)
    expect(page.locator(".log-line").last).to_contain_text("second line")
    worker.settle(lease, result={"answer": 42})

    expect(badge(page)).to_have_text("Completed")
    expect(bar(page)).to_have_count(0)
    expect(page.locator("pre[aria-label=Result]")).to_contain_text('"answer": 42')
    expect(page.locator(".waterfall-bar[data-span=run]")).to_have_count(1)
    assert page.evaluate("window.sameDocument") is True


def test_two_tabs_and_two_members_see_the_same_and_a_stranger_nothing(
    visit: Visit, worker: HandWorker
) -> None:
    """In sync within a workspace, apart between workspaces."""
    job_id = worker.enqueue()
    ada = visit(ADA, f"/jobs/{job_id}")
    pages = [ada.page, ada.another_tab(f"/jobs/{job_id}"), visit(BOB, f"/jobs/{job_id}").page]
    eve = visit(EVE, f"/jobs/{job_id}", allow=("404.*follow_topic",)).page
    for page in pages:
        is_live(page)

    [lease] = worker.lease()
    worker.report(lease, 40, "for members only")

    for page in pages:
        expect(bar(page)).to_have_attribute("aria-valuenow", "40")
    expect(eve.get_by_role("heading", level=1)).to_have_text("No such job")
    assert "for members only" not in eve.content()
    worker.settle(lease)
    for page in pages:
        expect(badge(page)).to_have_text("Completed")


def test_an_address_with_no_id_in_it_names_no_job(visit: Visit) -> None:
    """The database's refusal of such an id speaks of types."""
    page = visit(ADA, "/jobs/xyz").page

    expect(page.get_by_role("heading", level=1)).to_have_text("No such job")
    expect(page.get_by_text("uuid")).to_have_count(0)


def test_what_happened_offline_is_there_after_coming_back(visit: Visit, worker: HandWorker) -> None:
    """A laptop that was closed shows the truth when it is opened, and says so meanwhile."""
    job_id = worker.enqueue()
    visitor = visit(ADA, f"/jobs/{job_id}", allow=(NETWORK,))
    page = visitor.page
    is_live(page)

    visitor.context.set_offline(True)
    expect(freshness(page)).to_have_attribute("data-freshness", "offline")
    [lease] = worker.lease()
    worker.report(lease, 55, "one", "two", "three")
    visitor.context.set_offline(False)

    is_live(page)
    expect(bar(page)).to_have_attribute("aria-valuenow", "55")
    expect(page.locator(".log-line")).to_have_count(3)
    worker.settle(lease)
    expect(badge(page)).to_have_text("Completed")


def test_a_restarted_realtime_server_is_polled_around_and_joined_again(
    visit: Visit, worker: HandWorker, stack: RunningStack
) -> None:
    """Realtime may go away at any time; the page says so and misses nothing."""
    job_id = worker.enqueue()
    page = visit(ADA, f"/jobs/{job_id}", allow=(NETWORK,)).page
    is_live(page)

    for entry in json.loads((stack.folder / "children.json").read_text()):
        process = psutil.Process(entry["pid"])
        if any("supabase_local.realtime" in part for part in process.cmdline()):
            process.kill()
    # what is shown lags behind what is known, so that no short loss flickers
    page.wait_for_function(
        "() => document.querySelector('.job-head .freshness').dataset.freshness !== 'live'"
    )
    [lease] = worker.lease()
    worker.report(lease, 45, "while Realtime was unavailable")

    expect(bar(page)).to_have_attribute("aria-valuenow", "45")
    is_live(page, 90_000)  # it is started again, and asked for with growing pauses
    worker.settle(lease)
    expect(badge(page)).to_have_text("Completed")


def test_pages_opened_while_the_api_was_away_fill_themselves(
    visit: Visit, worker: HandWorker
) -> None:
    """Nobody has to press "Try again", neither on a list nor on a page of many reads."""
    job_id = worker.enqueue()
    visitor = visit(ADA, "/workspace/settings/api", allow=(NETWORK,))
    page = visitor.page
    pages = {"/schedules": page, "/jobs": visitor.another_tab("/workspace/settings/api")}
    visitor.context.route("**/api/**", lambda route: route.abort())
    for path, tab in pages.items():
        tab.goto(path)
        expect(tab.get_by_text("could not be read").first).to_be_visible()

    visitor.context.unroute("**/api/**")

    expect(page.get_by_text("No schedules")).to_be_visible()
    expect(page.get_by_text("could not be read")).to_have_count(0)
    expect(pages["/jobs"].locator(f"tr[data-job='{job_id}']")).to_be_visible()


def keep_session(visitor: Visitor, stack: RunningStack, *, expires_in: int) -> None:
    """Put into the browser a session of Ada whose token expires in so many seconds."""
    session = stack.new_session(ADA.email) | {
        "access_token": stack.token(str(ADA.id), expires_in=expires_in),
        "expires_at": int(time.time()) + expires_in,
        "expires_in": max(0, expires_in),
    }
    visitor.page.evaluate(
        "(text) => localStorage.setItem('minutehand.session', text)", json.dumps(session)
    )


def test_an_expired_session_is_renewed_before_anything_is_shown(
    visit: Visit, worker: HandWorker, stack: RunningStack
) -> None:
    """A tab opened the next morning goes on by itself."""
    job_id = worker.enqueue()
    visitor = visit(None, "/jobs")
    keep_session(visitor, stack, expires_in=-60)

    visitor.open(f"/jobs/{job_id}")

    is_live(visitor.page)


#: And follows a link at once, before a read of the page's own learns that the session has ended.
END_SESSION = """
(link) => {
  const kept = JSON.parse(localStorage.getItem("minutehand.session"));
  const ended = { expires_at: Math.round(Date.now() / 1000) - 60, expires_in: 0 };
  localStorage.setItem("minutehand.session", JSON.stringify({ ...kept, ...ended }));
  if (link) document.querySelector(link).click();
}
"""


@pytest.mark.parametrize("is_open", [True, False], ids=["while-open", "next-morning"])
def test_a_session_that_ended_says_so_and_leads_back(
    visit: Visit, worker: HandWorker, stack: RunningStack, is_open: bool
) -> None:
    """Whether the page was open when it ended, or is opened the next morning."""
    path = f"/jobs/{worker.enqueue()}"
    visitor = visit(None, path, allow=("status of 400",))
    keep_session(visitor, stack, expires_in=3600)
    visitor.open(path)
    page = visitor.page
    is_live(page)
    refused = {"code": 400, "error_code": "refresh_token_not_found", "msg": "Invalid Refresh Token"}
    refusing = "**/auth/v1/token?grant_type=refresh_token*"
    page.route(refusing, lambda route: route.fulfill(status=400, json=refused))

    if is_open:
        page.evaluate(END_SESSION, "a[href='/webhooks']")
    else:
        page.goto("/config.json")  # where nothing is read
        page.evaluate(END_SESSION)
        page.goto(path)

    told = page.get_by_role("status").filter(has_text="Your session has ended")
    expect(told).to_be_visible()
    expect(page).to_have_url(re.compile(f"{'/webhooks' if is_open else path}$"))
    address = page.url
    page.unroute(refusing)
    page.get_by_role("button", name="Ada").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    assert page.url == address


ASK = """
async (status) => {
  const api = await import("/api.js");
  let signedOut = 0;
  const answer = { data: { session: null }, error: { status } };
  const auth = { getSession: async () => answer, signOut: async () => { signedOut += 1; } };
  api.connect({ auth });
  const code = await api.request("GET", "/api/jobs").catch((error) => error.code);
  return [code, signedOut];
}
"""


def test_only_a_refused_renewal_signs_out(visit: Visit) -> None:
    """While Auth is unavailable for a moment, no one loses their session."""
    page = visit(ADA, "/workspace/settings/api").page

    answers = {status: page.evaluate(ASK, status) for status in (0, 502, 503, 400, 403)}

    away, refused = ["unreachable", 0], ["unauthorized", 1]
    assert answers == {0: away, 502: away, 503: away, 400: refused, 403: refused}


def test_a_fresh_token_reaches_the_open_socket_before_the_old_one_ends(
    visit: Visit, worker: HandWorker, stack: RunningStack
) -> None:
    """A private channel lives as long as its token: the new one must be pushed to it."""
    job_id = worker.enqueue()
    visitor = visit(None, "/jobs")
    ends = 6
    keep_session(visitor, stack, expires_in=ends)
    visitor.open(f"/jobs/{job_id}")
    page = visitor.page
    is_live(page)

    page.wait_for_timeout((ends + 2) * 1000)
    [lease] = worker.lease()
    worker.report(lease, 35)

    expect(bar(page)).to_have_attribute("aria-valuenow", "35")
    is_live(page)


def test_a_lost_worker_and_a_retry_are_in_the_timeline(visit: Visit, worker: HandWorker) -> None:
    """The picture tells the story: lost, failed and retried, done."""
    job_id = worker.enqueue()
    page = visit(ADA, f"/jobs/{job_id}").page
    is_live(page)

    worker.lease(lease_seconds=1)
    second = worker.lease_soon()
    assert second["job"]["attempts"] == 2
    worker.settle(
        second, "retry", error={"type": "Boom", "message": "it broke"}, retry_after_seconds=0
    )
    expect(page.locator(".error-text")).to_have_text("it broke")
    worker.settle(worker.lease_soon())

    expect(badge(page)).to_have_text("Completed")
    rows = page.get_by_role("treegrid", name="Waterfall").get_by_role("row")
    expect(rows).to_have_count(4)
    expect(rows.nth(1)).to_contain_text("Worker lost")
    page.get_by_text(re.compile(r"^Attempts \(3\)")).click()
    outcomes = page.get_by_role("group", name="Attempts").locator("tbody .badge")
    expect(outcomes).to_have_text(["Worker lost", "Failed, retried", "Completed"])


def test_a_job_of_many_attempts_fits_on_its_page(visit: Visit, worker: HandWorker) -> None:
    """One that was released again and again is a list that scrolls, not a page that grows."""
    job_id = worker.enqueue()
    for _ in range(15):
        worker.settle(worker.lease()[0], "released")

    page = visit(ADA, f"/jobs/{job_id}").page

    expect(page.locator(".waterfall-row")).to_have_count(16)
    page.get_by_text(re.compile(r"^Attempts \(15\)")).click()
    expect(page.get_by_role("group", name="Attempts").locator("tbody tr")).to_have_count(15)


def test_a_question_is_answered_where_it_is_asked(visit: Visit, worker: HandWorker) -> None:
    """A waiting job shows what it wants to know, and goes on with the answer."""
    job_id = worker.enqueue()
    page = visit(ADA, f"/jobs/{job_id}").page
    is_live(page)
    [lease] = worker.lease()
    wait = {
        "kind": "ask",
        "name": "which",
        "question": "Which <b>one</b>?",
        "options": ["Left", "Right"],
    }
    worker.settle(lease, "waiting", wait=wait)
    expect(badge(page)).to_have_text("Suspended")
    expect(page.locator(".question-text")).to_have_text("Which <b>one</b>?")

    page.get_by_role("button", name="Right").click()

    expect(badge(page)).to_have_text("Queued")
    [again] = worker.lease()
    assert again["steps"]["which"]["answer"] == "Right"
    worker.settle(again)
    expect(badge(page)).to_have_text("Completed")


def test_a_job_is_run_again_from_a_step(visit: Visit, worker: HandWorker) -> None:
    """With another payload and another result of a step before it; both show the other."""
    job_id = worker.enqueue({"n": 1})
    [lease] = worker.lease()
    worker.report(lease, steps=[{"name": "read", "result": 2}, {"name": "write", "result": 3}])
    worker.settle(lease)
    page = visit(ADA, f"/jobs/{job_id}").page

    page.locator("summary").get_by_text("write", exact=True).click()
    page.locator("details[open]").get_by_role("button", name="Run again from here").click()
    dialog = page.get_by_role("dialog", name="Run again from write")
    dialog.get_by_label("Payload (JSON)").fill('{"n": ')
    dialog.get_by_role("button", name="Run again").click()
    expect(dialog.get_by_role("alert")).to_contain_text("The payload is not JSON")
    dialog.get_by_label("Payload (JSON)").fill('{"n": 5}')
    dialog.get_by_text("Results of the steps that are kept").click()
    dialog.get_by_label("read").fill("[7]")
    dialog.get_by_role("button", name="Run again").click()

    expect(page).not_to_have_url(re.compile(job_id))
    expect(badge(page)).to_have_text("Queued")
    [again] = worker.lease()
    assert (again["job"]["payload"], again["steps"]) == ({"n": 5}, {"read": [7]})
    page.get_by_role("region", name="Replays").get_by_role("link").click()
    expect(page).to_have_url(re.compile(job_id))
    expect(page.get_by_role("region", name="Replays").locator("li")).to_have_count(2)


def test_a_failed_job_is_retried_with_another_payload(visit: Visit, worker: HandWorker) -> None:
    """What was wrong is mended on the page, by the type's schema."""
    job_id = worker.enqueue({"to": "nobody"})
    worker.settle(worker.lease()[0], "failed", error={"type": "X", "message": "no such address"})
    page = visit(ADA, f"/jobs/{job_id}").page

    page.get_by_role("button", name="Edit payload").click()
    page.get_by_label("Payload (JSON)").fill('{"to": "ada@acme.test"}')
    page.get_by_role("button", name="Retry with this payload").click()

    expect(badge(page)).to_have_text("Queued")
    expect(page.get_by_role("region", name="Activity")).to_contain_text("changed the payload")
    assert worker.lease()[0]["job"]["payload"] == {"to": "ada@acme.test"}


def test_children_and_steps_are_shown_and_followed(visit: Visit, worker: HandWorker) -> None:
    """A parent's page leads to its parts."""
    job_id = worker.enqueue()
    [lease] = worker.lease()
    worker.report(lease, 10, steps=[{"name": "prepare", "result": {"ready": True}}])
    children = worker.spawn(lease, 2)
    worker.settle(lease, "waiting", wait={"kind": "children", "name": "parts", "job_ids": children})
    page = visit(ADA, f"/jobs/{job_id}").page

    expect(page.get_by_role("heading", name="Child jobs")).to_be_visible()
    expect(page.locator(".children li")).to_have_count(2)
    expect(page.locator(".explain")).to_have_text("It waits for 2 of its 2 children.")
    page.locator("summary").get_by_text("prepare", exact=True).click()
    expect(page.locator("pre[aria-label='Result of prepare']")).to_contain_text("true")
    page.locator(".children a").first.click()

    expect(page).to_have_url(re.compile(children[0]))
    page.go_back()
    [first, second] = worker.lease(limit=2)
    [grandchild] = worker.spawn(first, 1)
    expect(page.locator(f".children .children [data-job='{grandchild}']")).to_be_visible()
    worker.settle(second)
    [third] = worker.lease()
    worker.settle(third)
    worker.settle(first)
    expect(page.locator(".children .badge")).to_have_text(["Completed"] * 3)
    page.locator(".children a").first.click()
    expect(page).to_have_url(re.compile(children[0]))
    page.get_by_role("region", name="Facts").get_by_role("link", name=job_id[-8:]).click()
    expect(page).to_have_url(re.compile(job_id))
    page.get_by_role("link", name="As a list").click()
    expect(page.locator("tr.job-row")).to_have_count(2)
    expect(page.locator(".group[data-group=completed] .group-count")).to_have_text("2")
    page.get_by_role("button", name=f"Remove filter parent {job_id}").click()
    expect(page.locator("tr.job-row")).to_have_count(4)


def test_a_long_log_is_read_from_its_end_and_downloaded_whole(
    visit: Visit, worker: HandWorker
) -> None:
    """Thousands of lines: the latest at once, the earlier on demand, all of them in the file."""
    job_id = worker.enqueue()
    [lease] = worker.lease()
    for block in range(0, 2500, 500):
        worker.report(lease, None, *(f"line {block + n}" for n in range(500)))
    page = visit(ADA, f"/jobs/{job_id}").page
    expect(page.locator(".log .num")).to_have_text("1,000 lines")
    expect(page.locator(".log-line").last).to_contain_text("line 2499")
    assert page.locator(".log-line").count() < 60

    page.get_by_role("button", name="Earlier lines").click()
    expect(page.locator(".log .num")).to_have_text("2,000 lines")
    page.get_by_placeholder("Filter log lines").fill("line 1999")
    expect(page.locator(".log .num")).to_have_text("1 of 2,000 lines")
    worker.report(lease, None, "the newest, line 1999 again")
    expect(page.locator(".log .num")).to_have_text("2 of 2,001 lines")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    lines = Path(download.value.path()).read_text().splitlines()

    assert len(lines) == 2501
    assert "line 0" in lines[0]


def test_more_steps_are_shown_and_more_pages_read_on_demand(
    visit: Visit, worker: HandWorker
) -> None:
    """Of many steps a hundred come first, and what one answer cannot hold is a click away."""
    job_id = worker.enqueue()
    [lease] = worker.lease()
    # 1.3 MB: the first page ends after about 100 of them
    steps = [{"name": f"step {n:03}", "result": "x" * 10_000} for n in range(130)]
    worker.report(lease, steps=steps)

    page = visit(ADA, f"/jobs/{job_id}").page
    shown = page.locator("section[aria-labelledby=h-steps] summary .mono")
    more = page.get_by_role("button", name="Show more steps")
    expect(shown).to_have_count(100)
    while more.is_visible():
        before = shown.count()
        more.click()
        # the last of them come as the button goes: until then it cannot be known to stay
        expect(shown).not_to_have_count(before)
    expect(shown).to_have_count(130)
    expect(shown.last).to_have_text("step 129")
    worker.settle(lease)
    # the end of the job reads the steps again, as many as were on the page
    expect(badge(page)).to_have_text("Completed")
    expect(shown).to_have_count(130)


def test_the_files_of_a_job_open(visit: Visit, worker: HandWorker) -> None:
    """A file in a tab of its own, without a session."""
    job_id = worker.enqueue()
    lease = worker.lease_soon()
    page = visit(ADA, f"/jobs/{job_id}").page
    expect(badge(page)).to_have_text("Running")
    worker.store(lease, "map.txt", b"turn left", "text/plain")
    worker.settle(lease, result=1)

    files = page.get_by_role("region", name="Files")
    expect(files).to_contain_text("map.txt text/plain, 9 B, expires")
    with page.expect_popup() as opened:
        files.get_by_role("link", name="map.txt").click()
    expect(opened.value.locator("body")).to_have_text("turn left")
