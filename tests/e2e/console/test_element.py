"""`<minutehand-job>` in Chromium, on a page without a build."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import violations
from tests.e2e.console.test_elsewhere import serve, values_of
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='breached'\">"
#: Everything is set before the element is defined.
PLAIN = """
import { jobId, supabase } from "/mine/my-app.js";

globalThis.client = supabase;
const job = document.createElement("minutehand-job");
Object.assign(job, { client: supabase, texts: { running: "Läuft" } });
job.setAttribute("job-id", jobId);
job.setAttribute("schema", "public");
document.getElementById("jobs").append(job);
document.addEventListener("jobend", ({ detail }) => {
  document.querySelector("h1").textContent = detail.job.result.answer;
});
await import("/lib/element.js");
"""


def test_a_page_without_a_build_shows_a_job(
    visit: Visit,
    worker: HandWorker,
    stack: RunningStack,
    workspace: dict[str, str],
    repository: Path,
) -> None:
    """State, progress, question, result; another job; nothing followed once it is gone."""
    job_id = worker.enqueue({})
    visitor = visit(None, allow=("status of 404",))
    page = visitor.page
    serve(page, PLAIN, values_of(stack, workspace, jobId=job_id))
    visitor.open("/mine/")
    job = page.locator("minutehand-job")
    expect(job.locator(".state")).to_have_text("Queued")

    lease = worker.lease_soon()
    worker.report(lease, None, progress={"percentage": 40, "message": EVIL})
    expect(job.locator(".state")).to_have_text("Läuft")
    expect(job.get_by_role("progressbar")).to_have_js_property("value", 40)
    expect(job.locator(".message")).to_have_text(EVIL)

    question = f"Which colour? {EVIL}"
    wait = {"kind": "ask", "name": "colour", "question": question, "options": ["red", "blue"]}
    worker.settle(lease, "waiting", wait=wait)
    expect(job.locator(".asked")).to_have_text(question)
    assert violations(page, repository) == []
    job.get_by_role("button", name="blue").click()
    expect(job.locator(".question")).to_be_hidden()

    worker.settle(worker.lease_soon(), result={"answer": "42"})
    expect(job.locator(".state")).to_have_text("Completed")
    expect(page.locator("h1")).to_have_text("42")
    assert page.title() != "breached"

    missing = "00000000-0000-7000-8000-000000000000"
    job.evaluate("(job, id) => job.setAttribute('job-id', id)", missing)
    expect(job.locator(".problem")).to_have_text("No such job, or it is not yours.")
    expect(job.locator(".label")).to_be_hidden()

    page.evaluate("document.querySelector('#jobs').replaceChildren()")
    page.wait_for_function("() => client.getChannels().length === 0")
