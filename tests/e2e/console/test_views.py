"""Each view of the console in Chromium: its function, accessibility, and width on a phone."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Response, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import check_page
from tests.e2e.console.people import ADA, BOB, NETWORK, OLGA, click, press
from tests.e2e.console.worker import HandWorker
from tests.support.engine import piece
from tests.support.patience import until

pytestmark = pytest.mark.browser


def test_jobs_are_live_filtered_and_retried(visit: Visit, worker: HandWorker) -> None:
    """The list of jobs changes live and can be filtered.

    A user retries selected jobs or all jobs of an error.
    """
    visitor = visit()
    page = visitor.page
    expect(page.get_by_text("No jobs yet")).to_be_visible()
    check_page(visitor)

    worker.enqueue_all([{"payload": {"customer": n}, "tags": ["due"]} for n in range(3)])
    rows = page.locator("tr.job-row")
    expect(rows).to_have_count(3)
    for lease in worker.lease(limit=2):
        worker.settle(lease, "failed", error={"type": "Boom", "message": "the ledger is closed"})
    expect(page.locator("tr[data-status=failed]")).to_have_count(2)
    expect(page.locator("[data-group=failed] .group-count")).to_have_text("2")

    page.locator("[data-group=failed]").click()
    expect(page).to_have_url(re.compile("state=failed"))
    expect(rows).to_have_count(2)
    page.reload()
    expect(rows).to_have_count(2)
    line = re.compile(f"{worker.job_type}: 2 jobs failed.*the ledger is closed")
    expect(page.locator(".incidents")).to_contain_text(line)
    page.get_by_label("Created", exact=True).select_option("1h")
    expect(page).to_have_url(re.compile("since=1h"))
    expect(page.locator(".group-count")).to_have_text(["2", "1", "2"])  # of the newest jobs
    page.get_by_label("Created", exact=True).select_option("")
    check_page(visitor)
    newest = rows.first.get_attribute("data-job")
    rows.get_by_role("checkbox").first.check()
    click(page, "Retry 1")
    title = page.get_by_role("heading", name=f"Retry failed job {str(newest)[-8:]} of ")
    expect(title).to_be_visible()
    click(page.get_by_role("dialog"), "Retry the job")
    expect(page.get_by_text("Retried 1 job")).to_be_visible()
    expect(rows).to_have_count(1)

    page.get_by_role("link", name="Group by error").click()
    group = page.get_by_role("row", name=re.compile("the ledger is closed"))
    expect(group).to_be_visible()
    check_page(visitor)
    click(group, "Retry 1")
    click(page.get_by_role("dialog"), "Retry the job")
    expect(page.get_by_text("No failed jobs")).to_be_visible()


def test_a_link_has_all_filters_of_a_list(visit: Visit, worker: HandWorker) -> None:
    worker.enqueue_all([{"tags": [f"t{n}"]} for n in range(2)])
    lease = worker.lease_one()
    worker.report(lease, pulse={"last": "output", "for_ms": 20_000, "memory_mb": 1})
    worker.run("update public.jobs set attempts = 2 where status = 'processing'")
    visitor = visit()
    page = visitor.page
    rows, dialog = page.locator("tr.job-row"), page.get_by_role("dialog")
    note = page.locator(".state-note", has_text="streaming")
    expect(note).to_have_text("streaming · attempt 2 of 5", use_inner_text=True)
    worker.settle(lease, "completed")
    expect(rows).to_have_count(2)
    page.get_by_label("Created").select_option("custom")
    dialog.get_by_label("From").fill("2020-01-01T00:00")
    dialog.get_by_label("Tag").fill("t1")
    check_page(visitor)
    click(dialog, "Apply")
    expect(rows).to_have_count(1)
    page.reload()
    expect(rows).to_have_count(1)
    page.get_by_role("searchbox").fill("zzz")
    expect(page.get_by_text(re.compile("search “zzz”, tag “t1”, since “20"))).to_be_visible()
    check_page(visitor)
    click(page, "Clear the search and filters")
    page.locator("tr[data-status=completed] input").check()
    bar = page.get_by_role("region", name="Selected jobs")
    expect(bar.get_by_role("button", name="Copy ids")).to_be_visible()
    click(bar, "Enqueue 1 completed again")
    click(dialog, "Enqueue the job again")
    expect(rows).to_have_count(3)


def test_a_member_changes_the_selected_jobs(visit: Visit, worker: HandWorker) -> None:
    """Only managers may change all jobs that match, by one call."""
    worker.enqueue_all([{}] * 2)
    page = visit(BOB, "/jobs?search=by_hand").page
    expect(page.locator("tr.job-row")).to_have_count(2)
    bar = page.get_by_role("region", name="Selected jobs")
    page.locator("tr.job-row input").first.check()
    every = page.get_by_label("Select all loaded jobs")
    assert every.evaluate("input => input.indeterminate")
    every.check()
    click(bar, "Cancel 2 queued")
    click(page.get_by_role("dialog"), "Cancel 2 jobs")
    expect(page.locator("tr[data-status=cancelled]")).to_have_count(2)


def test_a_filtered_list_has_all_jobs_after_a_burst(visit: Visit, worker: HandWorker) -> None:
    worker.enqueue_many(30)
    page = visit(ADA, "/jobs?search=by_hand").page
    foot, bar = page.locator(".foot"), page.locator(".selection")
    expect(foot).to_have_text("30 jobs")
    expect(bar).to_have_count(0)
    worker.enqueue_many(290)
    expect(foot).to_contain_text("more below")
    expect(bar).to_have_text(re.compile("Retry all matching jobs *Cancel all matching jobs"))
    page.locator(".table-scroll").evaluate("(b) => setInterval(() => b.scrollTo(0, 1e6), 100)")
    expect(foot).to_have_text("320 jobs")


def test_pages_that_arrive_during_a_refresh_stay(visit: Visit, worker: HandWorker) -> None:
    worker.enqueue_many(350)
    page = visit().page
    box, foot = page.locator(".table-scroll"), page.locator(".foot")
    held: list[Route] = []

    def hold(route: Route) -> None:
        asked: Any = route.request.post_data_json
        if "ids" in asked["p_filter"] and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/rpc/list_jobs*", hold)

    def scroll_on(loaded: str | re.Pattern[str]) -> None:
        box.evaluate("(box) => box.scrollTo(0, box.scrollHeight)")
        expect(foot).to_have_text(loaded)

    expect(foot).to_have_text("100 jobs loaded, more below")
    scroll_on("200 jobs loaded, more below")
    worker.enqueue()
    while not held:
        page.wait_for_timeout(50)
    scroll_on(re.compile("^30[01] jobs"))  # the delayed read may end and be repeated
    scroll_on(re.compile("^35[01] jobs"))
    held[0].continue_()

    expect(foot).to_have_text("351 jobs")
    assert page.locator("tr.job-row").count() < 60  # the page has only the visible rows


def test_a_refresh_reads_only_the_rows_in_view(visit: Visit, worker: HandWorker) -> None:
    worker.enqueue_many(150)
    visitor = visit()
    page = visitor.page
    foot, box = page.locator(".foot"), page.locator(".table-scroll")
    expect(foot).to_have_text("100 jobs loaded, more below")
    expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
    visitor.settle()
    read: list[int] = []

    def count(response: Response) -> None:
        if "/rpc/list_jobs" in response.url and response.ok:
            read.append(len(response.json()["jobs"]))

    page.on("response", count)
    job_id = worker.enqueue()
    expect(page.locator("tr.job-row").first).to_have_attribute("data-job", job_id)
    expect(foot).to_have_text("101 jobs loaded, more below")
    worker.enqueue_many(100)
    expect(foot).to_have_text(re.compile("^[1-3][0-9] jobs loaded, more below"))
    fits = box.evaluate("(box) => box.clientHeight / 36")
    assert max(read) <= fits + 1

    box.evaluate("(box) => box.scrollTo(0, box.scrollHeight)")
    expect(foot).to_have_text(re.compile("^1[1-3][0-9] jobs loaded, more below"))


def test_a_job_from_queued_to_completed(visit: Visit, worker: HandWorker) -> None:
    """A job's page shows progress, log lines, question, attempts and result without a reload."""
    job_id = worker.enqueue({"n": 1})
    visitor = visit(ADA, f"/jobs/{job_id}")
    page = visitor.page
    expect(page.locator("h1 .badge")).to_have_text("Queued")
    lease = worker.lease_one()
    expect(page.locator("h1 .badge")).to_have_text("Running")
    expect(page.get_by_role("progressbar")).to_have_count(0)  # before the first report
    pulse = {"last": "progress", "for_ms": 0, "memory_mb": 1, "left_ms": 20_000}
    worker.report(lease, 40, "half of it", pulse=pulse)
    expect(page.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    expect(page.locator(".log")).to_contain_text("half of it")
    page.wait_for_timeout(5000)
    worker.report(lease, 45, "half of it", pulse=pulse)
    page.reload()
    shown = re.compile(r"Running: reported progress .*\. It has run for \d+ s\.")
    expect(page.locator(".explain")).to_contain_text(shown)
    expect(page).to_have_title(re.compile(f"^{worker.job_type} · running · .*Minutehand$"))
    late = re.compile(r"about \d.* left at this pace, which is after its timeout")
    expect(page.locator(".progress")).to_contain_text(late)

    text = "What " + "a" * 300 + "\n🌍"
    worker.say(lease, piece(text))
    words = page.get_by_role("region", name="Output: reply").locator(".words")
    expect(words).to_have_text(text, use_inner_text=True)
    worker.say(lease, piece("line\n" * 20_000 + "the last", 307))
    expect(words).to_have_attribute("data-writing", "")
    output = page.get_by_role("region", name="Output: reply")
    expect(output).to_contain_text(re.compile(r"first output after .* · last output (now|\d)"))
    waterfall = page.get_by_role("list", name="Waterfall")
    expect(waterfall.get_by_text("Output: reply")).to_be_visible()
    expect(words).to_contain_text("the last")
    expect(page.get_by_text("the last 100,000 of 100,3")).to_be_visible()
    below = "(box) => box.scrollTop > 0 && box.scrollHeight - box.scrollTop - box.clientHeight"
    assert words.evaluate(below) <= 1
    words.evaluate("(box) => box.scrollTo(0, 0)")
    click(page, "Jump to latest")
    expect(page.get_by_role("button", name="Jump to latest")).to_have_count(0)
    assert words.evaluate(below) <= 1

    worker.settle(lease, "waiting", wait={"kind": "ask", "name": "q", "question": "Which colour?"})
    expect(page.get_by_text("Which colour?")).to_be_visible()
    expect(visitor.another_tab("/jobs").get_by_text("Which colour?")).to_be_visible()
    check_page(visitor)
    page.get_by_placeholder("Your answer").fill("blue")
    with page.expect_request("**/answer") as sent:
        click(page, "Answer", exact=True)
    assert sent.value.post_data_json == {"answer": "blue", "name": "q"}

    step = {"name": "paint", "result": "blue"}
    worker.settle(worker.lease_one(), result={"answer": 42}, steps=[step])
    expect(page.locator("h1 .badge")).to_have_text("Completed")
    expect(page.get_by_role("region", name="Result")).to_contain_text("42")
    expect(waterfall).to_be_visible()
    check_page(visitor)
    abandoned = json.dumps([{"job_id": job_id, "place": "paint.py:7"}])
    worker.run("update queue.workers set abandoned = %s::jsonb", abandoned)
    page.reload()
    expect(page.locator(".explain")).to_contain_text("It completed at")
    expect(page.locator(".explain .remedy")).to_contain_text("the call at paint.py:7")
    worker.run("update queue.workers set abandoned = null")
    click(waterfall, re.compile("paint"))
    expect(page.get_by_role("region", name="Details of paint")).to_contain_text("blue")
    click(page, "Run again from here")
    click(page.get_by_role("dialog"), "Run again")
    expect(page.get_by_text("from paint")).to_be_visible()


def test_a_failed_job_shows_why_and_is_retried_with_another_payload(
    visit: Visit, worker: HandWorker
) -> None:
    """A failed job's page shows the cause, the line of code and the next step.

    A user retries it with another payload.
    """
    job_id = worker.enqueue({"month": "2026-13"})
    frame = {"file": "invoices.py", "line": 42, "function": "mail", "own": True}
    error = {"type": "Boom", "message": "there is no month 13", "traceback": {"frames": [frame]}}
    worker.settle(worker.lease_one(), "failed", error=error)
    visitor = visit(ADA, f"/jobs/{job_id}")
    page = visitor.page
    expect(page.locator(".error-text")).to_have_text("there is no month 13")
    expect(page.locator("h2", has_text="Boom")).to_contain_text("invoices.py:42")
    expect(page.locator(".remedy").first).to_contain_text("data at invoices.py:42")
    expect(page.locator(".remedy .command")).to_have_count(0)  # the page itself has the button
    definition = re.compile("^A queue is a named group of jobs")
    queue = page.locator("dt").get_by_text("Queue", exact=True)
    expect(queue).to_have_attribute("title", definition)
    check_page(visitor)

    sentence = "Held at that time: since 2026-11-20 08:36:55+00. It is undefined."
    explained = {"status": "failed", "sentence": sentence}
    visitor.context.route("**/explain_job", lambda route: route.fulfill(json=explained))
    page.reload()
    expect(page.locator(".explain")).to_have_text(re.compile(r"\d:36:55.* It is undefined\."))
    visitor.context.unroute_all(behavior="wait")  # a read may still be in flight

    click(page, "Retry with another payload")
    form = page.get_by_role("dialog")
    form.get_by_label("Payload (JSON)").fill('{"month": "2026-12"}')
    click(form, "Retry", exact=True)

    expect(page.locator("h1 .badge")).to_have_text("Queued")
    expect(page.get_by_role("region", name="Payload")).to_contain_text("2026-12")


def misspell(worker: HandWorker, *endings: str) -> None:
    """Enqueue a job of a misspelt type for each ending. All jobs have not changed for hours."""
    # only the person who enqueued a misspelt type sees the finding
    insert = "insert into public.jobs (workspace_id, user_id, job_type) values (%s, %s, %s)"
    for ending in endings:
        worker.run(insert, worker.workspace_id, ADA.id, worker.job_type + ending)
    for column in ("created_at", "updated_at"):
        worker.run(f"update public.jobs set {column} = now() - interval '3 hours'")


def test_a_silent_job_and_a_job_without_a_worker_are_marked(
    visit: Visit, worker: HandWorker
) -> None:
    """The list and a job's page show which job hangs, and for which job no worker runs.

    A tab lists these jobs by cause, and has a button that resolves each.
    """
    worker.enqueue()
    lease = worker.lease_one()
    pulse = {"last": "log", "for_ms": 7_300_000, "place": "invoices.py:42", "memory_mb": 1}
    pulse |= {"left_ms": 3_600_000, "code": "match('a$', line)"}
    worker.report(lease, pulse=pulse, step={"name": "units", "for_ms": 1})
    misspell(worker, "s")
    visitor = visit()
    page = visitor.page
    for status, short, shown in (
        ("pending", "No worker", "Queued, no worker"),
        ("processing", "Silent 2 h", "Running, silent 2 h"),
    ):
        visitor.open("/jobs?search=by_hand")
        row = page.locator(f"tr[data-status={status}]")
        expect(row.locator(".badge")).to_contain_text(short)
        if short != "No worker":
            expect(row.locator(".bad")).to_have_text("in step units at invoices.py:42")
        row.click()
        expect(page.locator(".crumb a")).to_have_attribute("href", "/jobs?search=by_hand")
        expect(page.locator("h1 .badge")).to_contain_text(shown)
        check_page(visitor)
    silent = re.compile(
        r"Silent for 2 h.*, since its last log line, in its step units at invoices.py"
    )
    expect(page.locator(".explain")).to_have_text(silent)
    expect(page.locator(".explain")).to_contain_text("what match('a$', line) waits for")
    expect(page.locator(".explain")).to_contain_text("(in 59 min), it times out, then attempt 2")
    expect(page.locator(".explain time").last).to_have_attribute("aria-live", "off")
    expect(page.locator("dt", has_text="Memory")).to_be_visible()
    visitor.open("/jobs?state=attention&search=by_hand")
    expect(page.locator("[data-group=attention]")).to_have_text("Needs attention 2")
    expect(page.locator("[data-group=running]")).to_have_text("Running 1 · silent")
    visitor.open("/jobs?state=attention&queue=other")
    expect(page.get_by_text("No job that needs attention matches")).to_be_visible()
    expect(page.locator(".problem-line")).to_have_count(0)
    expect(page.locator("[data-group=attention] .group-count")).to_have_count(0)
    page.get_by_role("link", name="Jobs 2 need attention").click()
    expect(page).to_have_url(re.compile("state=attention"))
    expect(page.locator("[data-group=attention]")).to_have_text("Needs attention 2")
    expect(page.locator("[data-group=running]")).to_have_text("Running 1 · silent")
    place = page.locator(".group-head", has_text="silent").locator(".job-note")
    expect(place).to_have_text("in step units at invoices.py:42")
    unserved = f"{worker.job_type}s: no worker, 1 job waiting"
    expect(page.locator(".incidents")).to_have_count(0)  # the list has the problems
    heads = page.locator(".group-head > .strong")
    expect(heads).to_have_text([unserved, f"{worker.job_type}: 1 job silent"])
    fold = page.locator(".group-head .fold").first
    fold.click()
    advice = page.locator(".advice")
    expect(advice.locator("li").first).to_contain_text(f"enqueue again as {worker.job_type}")
    check_page(visitor)
    page.locator("h1").focus()
    for _ in range(2):
        page.keyboard.press("j")
    silent_job = page.get_by_role("link", name=f"{worker.job_type}: 1 job silent")
    expect(silent_job).to_be_focused()
    expect(silent_job).to_have_attribute("href", re.compile("/jobs/"))
    page.get_by_label(f"Select {worker.job_type}: 1 job silent").check()
    bar = page.get_by_role("region", name="Selected jobs")
    expect(bar).to_contain_text(f"1 running job of {worker.job_type} selected")
    click(bar, "Clear")
    click(page, f"Enqueue again as {worker.job_type}")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"{worker.job_type} is the nearest name that a worker has")
    click(dialog, f"Enqueue the job again as {worker.job_type}")
    expect(page.locator(".toast")).to_contain_text(f"Enqueued 1 job as {worker.job_type}")
    expect(heads).to_have_count(1)
    expect(page.locator("h1")).to_be_focused()
    expect(page.get_by_role("button", name="Cancel and retry")).to_be_visible()


def test_the_closed_bar_names_the_worst_problems(visit: Visit, worker: HandWorker) -> None:
    """The bar closes on the next page."""
    for _ in range(3):
        worker.enqueue()
    silent, *failed = worker.lease(3)
    pulse = {"last": "log", "for_ms": 7_300_000, "place": "invoices.py:42", "memory_mb": 1}
    worker.report(silent, pulse=pulse)
    visitor = visit(ADA, "/types")
    page = visitor.page
    page.clock.install()
    page.reload()
    click(page, "What to do")
    for lease in failed:
        worker.settle(lease, "failed", error={"type": "ValueError", "message": "no total"})
    misspell(worker, 60 * "s")  # does not fit into the line
    page.clock.run_for(31_000)
    expect(page.locator(".problem-line")).to_have_count(3)  # the open problem stays open
    expect(page.locator(".advice")).to_contain_text("invoices.py:42")
    page.set_viewport_size({"width": 200, "height": 844})
    page.reload()
    bar = page.locator(".incidents")
    expect(bar).to_have_text(re.compile(r"\+\d more"))
    page.set_viewport_size({"width": 390, "height": 844})
    worst = f"{worker.job_type}: ValueError: no total, first error .* ago"
    expect(bar).to_have_text(re.compile(rf"3 problems .*: 1 silent {worst} Show$"))
    assert (box := bar.bounding_box())
    assert box["height"] < 70
    check_page(visitor)
    click(page, "3 problems")
    lines = page.locator(".problem-line")
    expect(lines).to_have_count(3)
    check_page(visitor)
    for line in (lines.first, lines.last):
        click(line, "What to do")
    expect(lines.first.locator(".advice")).to_contain_text("Retry these jobs.")
    expect(lines.last.locator(".advice").get_by_role("link", name="See job")).to_be_visible()
    expect(page.get_by_role("link", name="4 jobs need attention")).to_be_in_viewport()
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Schedules").click()
    expect(lines).to_have_count(0)


def test_a_group_of_jobs_in_trouble_is_closed(visit: Visit, worker: HandWorker) -> None:
    """So the next group is in view. Ticking a closed group selects all of its jobs."""
    misspell(worker, *11 * [".many"], ".few", ".few")
    visitor = visit(ADA, "/jobs?state=attention")
    page = visitor.page
    page.clock.install()
    page.reload()
    rows = page.locator("tr.job-row")
    name = f"{worker.job_type}.many: no worker, 11 jobs waiting"
    head = page.get_by_role("button", name=name)
    expect(head).to_have_attribute("aria-expanded", "false")
    head.focus()
    page.keyboard.press(" ")
    bar = page.get_by_role("region", name="Selected jobs")
    expect(bar).to_contain_text(f"11 queued jobs of {worker.job_type}.many selected")
    expect(rows).to_have_count(0)
    page.get_by_label("Select all").check()
    expect(bar).to_contain_text("13 queued jobs selected")
    click(bar, "Clear")
    head.click()
    expect(rows).to_have_count(11)
    head.focus()
    for _ in range(5):
        page.keyboard.press("j")
    fifth = rows.nth(4)
    expect(fifth.locator("a")).to_be_focused()
    page.keyboard.press(" ")
    expect(fifth.get_by_role("checkbox")).to_be_checked()
    fifth.get_by_role("checkbox").focus()
    page.keyboard.press("k")
    expect(rows.nth(3).get_by_role("checkbox")).to_be_focused()
    page.get_by_label(f"Select {name}").click(modifiers=["Shift"])
    expect(bar).to_contain_text(f"11 queued jobs of {worker.job_type}.many selected")
    page.get_by_label(re.compile(r"Select .*\.few")).check()
    expect(bar).to_contain_text("13 queued jobs selected")

    def resolve_few(route: Route) -> None:
        found = route.fetch().json()
        kept = [one for one in found["attention"] if not one["job_type"].endswith(".few")]
        route.fulfill(json=found | {"attention": kept})

    visitor.context.route("**/explain_queue", resolve_few)
    page.clock.run_for(31_000)
    expect(bar).to_contain_text("11 queued jobs of")  # actions change no hidden job
    visitor.context.unroute_all(behavior="wait")
    visitor.open(f"/jobs?state=attention&job_type={worker.job_type}.few")
    expect(rows).to_have_count(2)
    page.get_by_label("Type", exact=True).select_option("")
    expect(page.locator(".group-head")).to_have_count(2)
    expect(rows).to_have_count(2)  # an open group stays open


def test_jobs_that_retry_are_run_now_by_one_call(visit: Visit, worker: HandWorker) -> None:
    for _ in range(4):
        worker.enqueue()
    error = {"type": "ValueError", "message": "the port is closed"}
    last, *others = worker.lease(4)
    worker.settle(last, "failed", error=error)
    for lease in others:
        worker.settle(lease, "retry", error=error, retry_after_seconds=3600)
    worker.workspace_id = str(ADA.workspace_id)
    worker.enqueue()
    worker.settle(worker.lease_one(), "retry", error=error, retry_after_seconds=3600)
    for person in (OLGA, ADA):  # an operator's list has no job of another workspace either
        visitor = visit(person, "/jobs?state=all")
        page = visitor.page
        # an operator may see other problems too
        expect(page.locator(".incidents")).to_contain_text(re.compile("3 (jobs )?retrying"))
    line, order = page.locator(".problem-line"), list[str]()

    def note(event: str, url: str) -> None:
        if url.endswith("/retry"):
            order.append(event)

    page.on("request", lambda request: note("request", request.url))
    page.on("response", lambda response: note("response", response.url))
    expect(line).to_contain_text(re.compile("closed.* ago"))
    click(line, "What to do")
    expect(line.locator("li").first).to_contain_text("Correct what the error names.")
    expect(line.get_by_role("button", name="Retry", exact=True)).to_be_visible()
    check_page(visitor)
    expect(page).to_have_title(re.compile(r"^\(1\) Jobs · "))
    click(line, "Run 3 now")
    expect(page.get_by_role("dialog")).to_contain_text("are retrying: ValueError:")
    click(page.get_by_role("dialog"), "Run 3 jobs now")
    expect(page.locator(".toast")).to_contain_text("Started 3 jobs")
    assert order == ["request", "response"]


def test_a_group_counts_its_jobs_that_run_again(visit: Visit, worker: HandWorker) -> None:
    """The tab of its state counts only the jobs that wait for their next run."""
    for delay in (7100, 3600, 0):
        worker.enqueue({"copies": delay})
        error = {"type": "ValueError", "message": "the port is closed"}
        worker.settle(worker.lease_one(), "retry", error=error, retry_after_seconds=delay)
    worker.lease_one()
    visitor = visit(ADA, "/jobs")
    page = visitor.page
    again = "3 jobs retrying, 1 of them due or running"
    expect(page.locator(".group-head > .strong")).to_contain_text(again)
    visitor.open("/jobs?state=attention&search=7100")
    next_run = re.compile(r"attempt 2 of \d+ in 1 h 5\d min")
    expect(page.locator("tr.job-row")).to_contain_text(next_run)
    expect(page.locator(".group-head > .strong")).to_contain_text("1 job retrying")


def test_a_silent_or_misspelt_job_is_replaced_in_one_step(visit: Visit, worker: HandWorker) -> None:
    silent = worker.enqueue()
    lease = worker.lease_one()
    worker.report(lease, pulse={"last": "log", "for_ms": 60_000, "place": "a.py:1", "memory_mb": 1})
    misspell(worker, "s")
    visitor = visit(ADA, f"/jobs/{silent}")
    page = visitor.page
    click(page, "Cancel and retry")
    dialog = page.get_by_role("dialog")
    about = "all its attempts. The new attempt may hang"  # it has no finished step and no child
    expect(dialog).to_contain_text(about)
    expect(dialog.get_by_role("button", name="Not now")).to_be_focused()
    click(dialog, "Cancel and retry")
    expect(page.locator("h1 .badge")).to_contain_text("Cancelling")
    visitor.open("/jobs")
    worker.settle(lease, "cancelled")
    visitor.open(f"/jobs/{silent}")
    expect(page.locator("h1 .badge")).to_have_text("Queued")

    misspelt = worker.one("select id from public.jobs where job_type = %s", f"{worker.job_type}s")
    visitor.open(f"/jobs/{misspelt}")
    click(page, f"Enqueue again as {worker.job_type}")
    click(page.get_by_role("dialog"), f"Enqueue the job again as {worker.job_type}")
    page.locator(".toast").get_by_role("link", name="See it").click()
    expect(page.locator("h1")).to_have_text(f"{worker.job_type} Queued")
    status = "select status from public.jobs where id = %s"
    until(lambda: worker.one(status, misspelt) == "cancelled")


def test_realtime_is_unavailable_only_if_it_is_late(visit: Visit) -> None:
    visitor = visit(ADA, "")
    page = visitor.page
    page.clock.install()
    page.route_web_socket("**/realtime/**", lambda _: None)  # connected, but without replies
    visitor.open("/jobs")
    for _ in range(12):
        page.clock.run_for(1000)
    expect(page.locator(".freshness")).to_have_text("Polling")
    expect(page.locator(".incidents")).to_have_count(0)
    for _ in range(30):
        page.clock.run_for(1000)
    expect(page.locator(".incidents")).to_contain_text("Realtime delivers no changes")


@pytest.mark.parametrize("respond", [lambda _: None, lambda route: route.fulfill(status=503)])
def test_an_outage_of_the_data_api_is_reported(
    visit: Visit, worker: HandWorker, respond: Callable[[Route], None]
) -> None:
    """If the Data API hangs or fails, the page names what it could not read, and later reads it."""
    job_id = worker.enqueue()
    visitor = visit(allow=(NETWORK,))
    page = visitor.page
    expect(page.locator(".freshness")).to_have_text("Live")
    visitor.context.route("**/rest/v1/**", respond)
    worker.enqueue()
    fresh = visitor.another_tab("/jobs")
    expect(page.locator(".incidents")).to_contain_text("Requests of this page have failed")
    expect(page.locator(".incidents")).to_have_attribute("data-tone", "failed")
    expect(page.locator(".freshness")).to_have_text("Catching up")
    expect(fresh.get_by_text("Your workspaces could not be read")).to_be_visible()
    expect(fresh.locator(".failed")).to_contain_text("minutehand doctor shows why")

    visitor.context.unroute("**/rest/v1/**")

    for tab in (page, fresh):
        expect(tab.locator("tr.job-row")).to_have_count(2)
    missing = {"message": "no function", "code": "42883"}
    for name in ("explain_queue", "get_job"):
        visitor.context.route(f"**/{name}*", lambda r: r.fulfill(status=404, json=missing))
    visitor.open(f"/jobs/{job_id}")
    expect(page.locator(".incidents")).to_contain_text("Problems could not be read")
    expect(page.locator(".failed")).to_contain_text("minutehand doctor")


def test_a_form_enqueues_a_job_and_a_type_is_paused(visit: Visit, worker: HandWorker) -> None:
    """The form names a rejected field and enqueues a job.

    A manager pauses the type, but cannot resume an operator's pause.
    """
    properties = {
        "month": {"type": "string"},
        "tags": {"type": "array"},
        "copies": {"type": "integer", "default": 1},
    }
    schema = {"type": "object", "required": ["month"], "properties": properties}
    worker.register(worker.job_type, payload_schema=schema)
    visitor = visit(ADA, "/types", allow=("422",))
    page = visitor.page
    check_page(visitor)
    page.get_by_role("link", name=worker.job_type).click()
    expect(page.get_by_role("heading", name="Payload schema")).to_be_visible()
    check_page(visitor)
    click(page, "Enqueue")
    form = page.get_by_role("dialog")
    expect(form.get_by_label("Payload (JSON)")).to_have_value(
        re.compile(r'^\{\s*"month": null,\s*"copies": 1\s*\}$')
    )
    click(form, "Enqueue", exact=True)
    expect(form).to_contain_text("month")
    form.get_by_label("Payload (JSON)").fill('{"month": "2026-10"}')
    click(form, "Enqueue", exact=True)
    expect(page.locator("h1 .badge")).to_have_text("Queued")

    worker.register(worker.job_type, queue="held")
    worker.pause("queue", "held")
    visitor.open(f"/types/{worker.job_type}")
    expect(page.locator("h1")).to_contain_text("Queue paused")
    worker.resume("queue", "held")
    click(page, "Pause")
    click(page, "Pause the type")
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()

    worker.pause("job_type", worker.job_type)
    visitor.open(f"/types/{worker.job_type}")
    page.get_by_role("button", name="Resume", exact=True).first.click()
    expect(page.locator(".toast")).to_contain_text("still paused. An operator can resume the type")


def test_managers_change_schedules_and_webhooks(visit: Visit, worker: HandWorker) -> None:
    visitor = visit(ADA, "/schedules")
    page = visitor.page
    expect(page.get_by_text("No schedules")).to_be_visible()
    click(page, "Add a schedule")
    form = page.get_by_role("dialog")
    for label, value in (("Name", "nightly"), ("Cron", "0 3 * * *"), ("Job type", worker.job_type)):
        form.get_by_label(label).fill(value)
    expect(form.get_by_text(re.compile(r"Next runs, your time: \d{4}"))).to_be_visible()
    click(form, "Save")
    row = page.get_by_role("row", name=re.compile("nightly"))
    expect(row).to_contain_text("On")
    click(row, "Run now")
    expect(page.locator("h1 .badge")).to_have_text("Queued")
    visitor.open("/schedules")
    click(row, "Switch off")
    expect(row).to_contain_text(re.compile(r"Off\s+changed"))
    check_page(visitor)
    click(row, "Delete")
    click(page, "Delete the schedule")
    expect(page.get_by_text("No schedules")).to_be_visible()

    visitor.open("/webhooks")
    click(page, "Add a webhook")
    page.get_by_label("Endpoint, https").fill("https://hooks.invalid/hooks")
    click(page.get_by_role("dialog"), "Add")
    click(page, "I have kept it")
    hook = page.get_by_role("row", name=re.compile("hooks.invalid"))
    worker.run("update queue.webhooks set job_types = '{nobodys}'")
    page.reload()
    expect(hook).to_contain_text("no worker has served the job type nobodys")
    worker.run("update queue.webhooks set job_types = null")
    page.reload()
    expect(hook).to_contain_text("On")
    click(hook, "Send a test")
    expect(page.get_by_role("link", name="The delivery")).to_be_visible()
    check_page(visitor)

    # no server listens at the webhook's address, so the page shows each delivery's error
    failed = "select from queue.webhooks where url = 'https://hooks.invalid/hooks' and failures > 0"
    until(lambda: worker.rows(failed))
    visitor.open("/webhooks")
    hook.get_by_role("link", name="All deliveries").click()
    expect(page.locator(".job-row").first).to_contain_text("Retrying")

    member = visit(BOB, "/webhooks").page
    expect(member.get_by_role("row", name=re.compile("hooks.invalid"))).to_be_visible()
    expect(member.get_by_role("button", name="Add a webhook")).to_have_count(0)


def test_the_overview_shows_rates_and_failures(visit: Visit, worker: HandWorker) -> None:
    """The page of a paused job, opened from the overview, names the pause and links back."""
    worker.enqueue_many(2)
    completed, failed = worker.lease(limit=2)
    worker.settle(completed)
    worker.settle(failed, "failed", error={"type": "Boom", "message": "the ledger is closed"})
    until(lambda: worker.rpc("queue_series", p_workspace_id=worker.workspace_id)["points"])
    visitor = visit(ADA, "/overview")
    page = visitor.page
    expect(page.get_by_role("heading", name="Failures")).to_be_visible()
    expect(page.locator(".uplot").first).to_be_visible()
    late = {"late_since": "2026-01-01"}
    pattern = re.compile("queue_stats|list_job_types")
    page.route(pattern, lambda route: route.fulfill(json=route.fetch().json() | late))
    for path in ("/types", "/overview"):
        visitor.open(path)
        expect(page.get_by_text("counted until")).to_be_visible()
    check_page(visitor)

    click(page, "Pause jobs")
    page.get_by_label("Reason, if any").fill("we move the ledger")
    click(page, "Pause the workspace")
    expect(page.get_by_role("button", name="Resume", exact=True)).to_be_visible()
    visitor.open(f"/jobs/{worker.enqueue()}")
    page.locator(".incidents .fold").first.click()  # the bar is collapsed on the page of a job
    for place in (".incidents", ".explain"):
        expect(page.locator(place)).to_contain_text("we move the ledger")
    page.locator(".remedy").get_by_role("link", name="Overview").first.click()
    click(page, "Resume", exact=True)
    expect(page.get_by_role("button", name="Pause jobs")).to_be_visible()


def test_sign_in_and_sign_out(visit: Visit) -> None:
    """A user signs in to a demo account with one click.

    After a sign-out, a sign-in returns to the previous page. The next user does not see the
    problems of the previous one.
    """
    visitor = visit(None)
    page = visitor.page
    check_page(visitor)
    findings = {"findings": [{"sentence": "A problem since 2026-11-20 08:36:55+00."}]}
    visitor.context.route("**/explain_queue*", lambda route: route.fulfill(json=findings))
    click(page, re.compile(ADA.email))
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.locator(".incidents")).to_contain_text("A problem for")
    expect(page.locator(".incidents time")).to_have_attribute("aria-live", "off")
    click(page, "Sign out")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page).to_have_title("Minutehand")
    visitor.context.unroute("**/explain_queue*")
    visitor.context.route("**/explain_queue*", lambda route: None)  # sends no response
    click(page, re.compile(BOB.email))
    expect(page.get_by_role("heading", level=1)).to_have_text("Jobs")
    expect(page.locator(".incidents")).to_have_count(0)


def test_common_actions_work_by_keyboard(visit: Visit, worker: HandWorker) -> None:
    """A user finds, opens and cancels a job and opens the help by keyboard alone."""
    worker.enqueue({})
    visitor = visit()
    page = visitor.page
    expect(page.locator("tr.job-row")).to_have_count(1)
    page.keyboard.press("?")
    check_page(visitor)
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type(worker.job_type)
    page.keyboard.press("Escape")
    page.get_by_role("heading", level=1).focus()
    page.keyboard.press("j")
    expect(page.locator("a.row-link")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    press(page, "Cancel", exact=True)
    expect(page.get_by_role("button", name="Not now")).to_be_focused()
    check_page(visitor)
    press(page, "Cancel the job")
    expect(page.locator("h1 .badge")).to_have_text("Cancelled")
    expect(page.locator(".actions button:focus")).to_have_text("Retry")
