"""The list of jobs: groups, filters, search, selection, long lists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import fits, picture, violations
from tests.e2e.console.people import ADA, BOB, EVE, NETWORK, Visitor
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser


def rows(page: Page) -> Locator:
    return page.locator("tr.job-row")


def group(page: Page, name: str) -> Locator:
    return page.locator(f".group[data-group={name}] .group-count")


def is_live(page: Page) -> None:
    expect(page.locator(".monitor .freshness")).to_have_attribute("data-freshness", "live")


def test_an_empty_workspace_says_what_to_expect(visit: Visit) -> None:
    """Nothing is a state of its own."""
    page = visit(ADA).page

    expect(page.get_by_text("No jobs yet")).to_be_visible()
    expect(group(page, "all")).to_have_text("0")


def test_jobs_come_and_move_between_groups_by_themselves(visit: Visit, worker: HandWorker) -> None:
    """The list is live, with its counts."""
    page = visit(ADA).page
    is_live(page)

    worker.enqueue_many([{}, {}, {}])
    expect(rows(page)).to_have_count(3)
    expect(group(page, "queued")).to_have_text("3")
    [lease] = worker.lease()
    row = page.locator(f"tr[data-job='{lease['job']['id']}']")
    expect(row).to_have_attribute("data-status", "processing")
    worker.report(lease, 60)
    expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "60")
    worker.settle(lease)

    expect(row).to_have_attribute("data-status", "completed")
    expect(group(page, "completed")).to_have_text("1")
    expect(group(page, "queued")).to_have_text("2")


def test_filters_live_in_the_address_and_survive_back_and_reload(
    visit: Visit, worker: HandWorker
) -> None:
    """A filtered list can be sent to a colleague."""
    worker.enqueue_many([{"idempotency_key": "needle"}, {"idempotency_key": "hay"}])
    failed = worker.run("failed", error={"type": "Boom", "message": "it broke for good"})
    page = visit(ADA).page

    page.locator(".group[data-group=failed]").click()
    expect(page).to_have_url(re.compile(r"\?state=failed$"))
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("it broke for good")
    page.reload()
    expect(page.locator(f"tr[data-job='{failed}']")).to_be_visible()
    page.get_by_role("link", name=worker.job_type).click()
    expect(page.locator("h1 .badge")).to_have_text("Failed")
    page.go_back()
    expect(page).to_have_url(re.compile(r"\?state=failed$"))
    page.locator(".group[data-group=all]").click()
    page.get_by_role("searchbox").fill("for good")

    expect(rows(page)).to_have_count(1)
    expect(page).to_have_url(re.compile("search=for"))
    page.get_by_role("searchbox").fill("no such thing")
    expect(page.get_by_text("No job matches")).to_be_visible()
    page.get_by_role("searchbox").fill(failed[-8:])
    expect(page.locator(f"tr[data-job='{failed}'] .c-id")).to_have_text(failed[-8:])
    page.get_by_role("searchbox").fill(failed[:30])
    expect(rows(page)).to_have_count(1)


def test_buttons_stay_in_place_while_the_connections_word_changes(
    visit: Visit, worker: HandWorker
) -> None:
    """A click on Pause must not land where Pause was."""
    worker.enqueue()
    visitor = visit(ADA, allow=(NETWORK,))
    page = visitor.page
    is_live(page)
    pause = page.get_by_role("button", name="Pause")
    expect(rows(page)).to_have_count(1)
    expect(group(page, "all")).to_have_text("1")  # the counts above take room when they come
    place = pause.bounding_box()

    visitor.context.set_offline(True)

    expect(page.locator(".monitor .freshness")).to_have_text("Offline")
    assert pause.bounding_box() == place
    visitor.context.set_offline(False)
    is_live(page)


def test_what_is_rare_and_old_is_found_slice_by_slice(
    visit: Visit, worker: HandWorker, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """A slice without a match is not the end; counts of a long history say that they stop."""
    needle = worker.enqueue(idempotency_key="needle")
    with stack.connect() as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "insert into public.jobs (workspace_id, job_type, queue, max_attempts, schema_version,"
            " status, finished_at, completed_at, created_at, lane, last_seq)"
            " select %s, 'hay', 'default', 5, 1, 'completed', now(), now(),"
            " now() + n * interval '1 microsecond', 1, 3 from generate_series(1, 21000) n",
            [workspace["id"]],
        )

    page = visit(ADA, "/jobs?search=needle").page

    # a slice ends after 30 ms, in which a busy machine reads few rows
    expect(page.locator(f"tr[data-job='{needle}']")).to_be_visible(timeout=100_000)
    expect(rows(page)).to_have_count(1)
    expect(group(page, "completed")).to_have_text("10,000+")
    expect(group(page, "queued")).to_have_text("1")
    worker.enqueue(idempotency_key="needle two")  # a slice read again at the top loses nothing
    expect(rows(page)).to_have_count(2)


def test_a_filtered_list_lets_go_of_jobs_that_leave_their_state(
    visit: Visit, worker: HandWorker
) -> None:
    """What is shown under Pending is pending."""
    worker.enqueue_many([{}, {}])
    page = visit(ADA, "/jobs?state=queued").page
    expect(rows(page)).to_have_count(2)
    is_live(page)

    [lease] = worker.lease()

    expect(rows(page)).to_have_count(1)
    worker.settle(lease, "retry", retry_after_seconds=0)
    expect(rows(page)).to_have_count(2)


def test_a_selection_is_cancelled_and_retried_with_its_number_named(
    visit: Visit, worker: HandWorker
) -> None:
    """Each action says how many jobs it touches, and asks first; its message hides no button."""
    worker.enqueue_many([{}, {}, {}])
    page = visit(ADA).page
    expect(rows(page)).to_have_count(3)
    is_live(page)
    expect(group(page, "all")).to_have_text("3")

    stood_at = rows(page).first.bounding_box()
    for index in range(2):
        rows(page).nth(index).get_by_role("checkbox").check()
    expect(page.get_by_role("region", name="Selected jobs")).to_be_visible()
    assert rows(page).first.bounding_box() == stood_at, "a row moved from under the pointer"
    page.get_by_role("button", name="Cancel 2", exact=True).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Cancel 2 jobs?")
    dialog.get_by_role("button", name="Keep it").click()
    expect(group(page, "cancelled")).to_have_text("0")
    page.get_by_role("button", name="Cancel 2", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel 2 jobs").click()

    expect(page.get_by_text(re.compile("Cancell(ed|ing) 2 jobs"))).to_be_visible()
    expect(group(page, "cancelled")).to_have_text("2")
    page.locator(".group[data-group=cancelled]").click()
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Select all loaded jobs").check()
    said = page.get_by_role("region", name="Messages").bounding_box()
    bar = page.get_by_role("region", name="Selected jobs").bounding_box()
    assert said is not None
    assert bar is not None
    assert said["height"] > 0
    assert said["y"] + said["height"] <= bar["y"], "a message lies on the buttons"
    page.get_by_role("button", name="Retry 2", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 2 jobs").click()
    expect(group(page, "queued")).to_have_text("3")


def test_all_dead_letters_are_redriven_at_once(visit: Visit, worker: HandWorker) -> None:
    """Also those that are not loaded."""
    worker.enqueue_many([{}] * 3)
    for _ in range(3):
        worker.run("failed", error={"type": "Boom", "message": "no luck"})
    page = visit(ADA, "/jobs?state=failed").page
    expect(rows(page)).to_have_count(3)

    page.get_by_role("button", name="Retry all 3").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry 3 jobs").click()

    expect(page.get_by_text("Retried 3 jobs")).to_be_visible()
    expect(group(page, "queued")).to_have_text("3")
    expect(group(page, "failed")).to_have_text("0")


def looks_right(visitor: Visitor, name: str) -> None:
    """Wide and light, narrow and dark: nothing is cut off, and axe finds nothing."""
    page = visitor.page
    schemes: tuple[tuple[Literal["light", "dark"], int], ...] = (("dark", 390), ("light", 1280))
    for scheme, width in schemes:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        expect(page.locator("html")).to_have_css("color-scheme", scheme)
        visitor.settle()
        picture(page, f"{name}-{scheme}")
        fits(page)
        assert violations(page, Path(__file__).resolve().parents[3]) == []


def test_a_pause_holds_the_list_still_and_says_what_it_holds_back(
    visit: Visit, worker: HandWorker
) -> None:
    """Live updates stop on demand."""
    page = visit(ADA).page
    is_live(page)

    page.get_by_role("button", name="Pause").click()
    worker.enqueue_many([{}, {}])
    expect(page.get_by_role("button", name="Resume (2 changes)")).to_be_visible()
    expect(rows(page)).to_have_count(0)
    page.get_by_role("button", name="Resume").click()

    expect(rows(page)).to_have_count(2)


def test_thousands_of_jobs_scroll_with_few_nodes(visit: Visit, worker: HandWorker) -> None:
    """Pages come by key as they are needed; only what is seen is drawn."""
    for _ in range(3):
        worker.enqueue_many([{}] * 1000)
    page = visit(ADA).page
    expect(rows(page).first).to_be_visible()
    expect(group(page, "all")).to_have_text("3,000")

    box = page.get_by_role("region", name="Jobs")
    for loaded in (200, 300, 400, 500):
        box.evaluate("(element) => { element.scrollTop = element.scrollHeight }")
        page.wait_for_function(
            "(least) => parseInt(document.querySelector('.foot').innerText.replace(',', '')) >="
            " least",
            arg=loaded,
        )

    assert rows(page).count() < 80
    box.evaluate("(element) => { element.scrollTop = 0 }")
    expect(page.locator("tr[aria-rowindex='2']")).to_be_visible()


def test_strangers_see_nothing_of_a_workspace(visit: Visit, worker: HandWorker) -> None:
    """Another workspace's list and counts know nothing of these jobs."""
    worker.enqueue()
    eve = visit(EVE, f"/jobs?job_type={worker.job_type}").page
    expect(eve.get_by_text("No job matches")).to_be_visible()

    expect(rows(visit(BOB).page)).to_have_count(1)
    expect(group(eve, "all")).to_have_text("0")


def test_a_refused_action_is_shown_with_its_reason(visit: Visit, worker: HandWorker) -> None:
    """A job that ended meanwhile cannot be cancelled, and the page says so."""
    job_id = worker.enqueue()
    visitor = visit(ADA, f"/jobs/{job_id}", allow=("409",))
    page = visitor.page
    expect(page.locator(".freshness")).to_have_attribute("data-freshness", "live")
    page.get_by_role("button", name="Cancel", exact=True).click()
    worker.run()

    page.get_by_role("button", name="Cancel 1 job").click()

    expect(page.get_by_role("region", name="Messages")).to_contain_text(
        "Could not cancel: the job is already completed"
    )


def test_a_job_is_enqueued_duplicated_and_cancelled_by_hand(
    visit: Visit, worker: HandWorker
) -> None:
    """From the list to a job, its copy and its end."""
    visitor = visit(ADA, allow=("422",))
    page = visitor.page
    page.get_by_role("button", name="Enqueue a job").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Type", exact=True).fill("no_such_type")
    form.get_by_label("Payload (JSON)").fill("{oops")
    form.get_by_role("button", name="Enqueue").click()
    expect(form.get_by_role("alert")).to_contain_text("not JSON")
    form.get_by_label("Payload (JSON)").fill('{"n": 1}')
    form.get_by_role("button", name="Enqueue").click()
    expect(form.get_by_role("alert")).to_contain_text(re.compile("no_such_type|unknown", re.I))
    form.get_by_label("Type", exact=True).fill(worker.job_type)
    form.get_by_role("button", name="Enqueue").click()

    expect(page.locator("h1 .badge")).to_have_text("Queued")
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f-]{36}$"))
    first = page.url
    page.get_by_role("button", name="Duplicate").click()
    page.get_by_role("dialog").get_by_role("button", name="Enqueue").click()
    expect(page).not_to_have_url(first)
    expect(page.locator("pre[aria-label=Payload]")).to_contain_text('"n": 1')
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel 1 job").click()
    expect(page.locator("h1 .badge")).to_have_text("Cancelled")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("h1 .badge")).to_have_text("Queued")


def test_the_workspace_is_switched_and_remembered(
    visit: Visit, worker: HandWorker, workspace: dict[str, str]
) -> None:
    """Each workspace has its own list; the choice survives a reload."""
    job_id = worker.enqueue()
    page = visit(ADA, f"/jobs/{job_id}").page
    select = page.locator(".workspace select")
    expect(select.locator("option:checked")).to_have_text(workspace["name"])

    select.select_option(label="Acme")
    expect(page).to_have_url(re.compile("/jobs$"))
    expect(page.locator(f"tr[data-job='{job_id}']")).to_have_count(0)
    page.reload()
    expect(select.locator("option:checked")).to_have_text("Acme")
    page.keyboard.press("Control+k")
    page.keyboard.type(f"switch to {workspace['name']}")
    page.keyboard.press("Enter")

    expect(page.locator(f"tr[data-job='{job_id}']")).to_be_visible()


def test_a_filter_is_typed_suggested_and_removed_as_a_chip(
    visit: Visit, worker: HandWorker
) -> None:
    """Where it stands, by name and value, and a wrong one says what it takes."""
    worker.enqueue_many([{"tags": ["red"]}, {}])
    page = visit(ADA).page
    expect(rows(page)).to_have_count(2)
    field = page.get_by_label("Add a filter")

    field.fill("tag:")
    expect(page.locator("datalist option[value='tag:red']")).to_have_count(1)
    field.fill("type:")
    expect(page.locator(f"datalist option[value='type:{worker.job_type}']")).to_have_count(1)
    field.fill("tag:red")
    field.press("Enter")
    expect(page).to_have_url(re.compile("tag=red"))
    expect(rows(page)).to_have_count(1)
    field.fill("payload:oops")
    field.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("JSON object")
    page.get_by_role("button", name="Remove filter tag red").click()

    expect(rows(page)).to_have_count(2)


def test_a_page_that_could_not_be_loaded_comes_with_the_network(visit: Visit) -> None:
    """In words of the console's own, and without a click."""
    visitor = visit(None, "/nowhere", allow=(NETWORK,))
    page = visitor.page
    page.route("**/views/types.js", lambda route: route.abort())
    visitor.sign_in(ADA)
    visitor.open("/jobs")

    page.get_by_role("link", name="Types").click()
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    page.unroute("**/views/types.js")
    visitor.context.set_offline(True)
    visitor.context.set_offline(False)

    expect(page.get_by_role("heading", name="Types", exact=True)).to_be_visible()


def test_narrow_zoomed_and_from_right_to_left_nothing_is_out_of_reach(
    visit: Visit, worker: HandWorker
) -> None:
    """Failures are cards on a phone; at 200 % the page scrolls; no direction adds width."""
    worker.enqueue_many([{}] * 30)
    worker.run("failed", error={"type": "Boom", "message": "no answer " * 30})
    visitor = visit(ADA, "/failures", viewport={"width": 390, "height": 844})
    page = visitor.page
    button = page.get_by_role("button", name=re.compile("1$")).first.bounding_box()
    assert button is not None
    assert button["x"] + button["width"] <= 390

    page.set_viewport_size({"width": 720, "height": 450})
    visitor.open("/jobs")
    expect(rows(page).first).to_be_visible()
    height, scrolls = page.evaluate(
        "() => [document.querySelector('.table-scroll').clientHeight,"
        " document.documentElement.scrollHeight > innerHeight]"
    )
    page.evaluate("() => { document.documentElement.dir = 'rtl' }")

    assert height > 300
    assert scrolls
    fits(page)
