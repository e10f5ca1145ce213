"""`<minutehand-job>` on somebody else's page without a build, with the page's own client."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import violations
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='breached'\">"
#: In place of the console's own program, so that the page has its origin and its policy.
PAGE = """
const { url, key, token, id } = VALUES;
document.body.innerHTML = '<main><h1>Mine</h1><div id="jobs"></div></main>';
const client = globalThis.supabase.createClient(url, key, { accessToken: async () => token });
const job = document.createElement("minutehand-job");
Object.assign(job, { client, texts: { running: "Läuft" } }); // set before it is defined
job.setAttribute("job-id", id);
job.setAttribute("schema", "public");
document.getElementById("jobs").append(job);
document.addEventListener("jobend", ({ detail }) => {
  document.querySelector("h1").textContent = detail.job.result.answer;
});
await import("/lib/element.js");
"""


def test_a_page_without_a_build_shows_a_job(
    visit: Visit, worker: HandWorker, stack: RunningStack
) -> None:
    """State, progress, question, result; what others wrote is text; a foreign id is said."""
    job_id = worker.enqueue({})
    values = {
        "url": stack.supabase_url,
        "key": stack.supabase_publishable_key,
        "token": stack.sign_in("ada@acme.test"),
        "id": job_id,
    }
    visitor = visit(None, "/jobs", allow=("status of 404",))
    page = visitor.page
    script = PAGE.replace("VALUES", json.dumps(values))
    page.route(
        "**/app.js", lambda route: route.fulfill(content_type="text/javascript", body=script)
    )
    visitor.open("/mine/")
    job = page.locator("minutehand-job")
    expect(job.locator(".state")).to_have_text("Queued")

    lease = worker.lease_soon()
    worker.report(lease, None, progress={"percentage": 40, "message": EVIL})
    expect(job.locator(".state")).to_have_text("Läuft")
    expect(job.get_by_role("progressbar")).to_have_js_property("value", 40)
    expect(job.locator(".message")).to_have_text(EVIL)

    wait = {"kind": "ask", "name": "q", "question": "Which colour?", "options": ["red", "blue"]}
    worker.settle(lease, "waiting", wait=wait)
    expect(job.locator(".asked")).to_have_text("Which colour?")
    assert violations(page) == []
    job.get_by_role("button", name="blue").click()
    expect(job.locator(".question")).to_be_hidden()

    worker.settle(worker.lease_soon(), result={"answer": "42"})
    expect(job.locator(".state")).to_have_text("Completed")
    expect(page.locator("h1")).to_have_text("42")
    assert page.title() != "breached"
    missing = "00000000-0000-7000-8000-000000000000"
    job.evaluate("(job, id) => job.setAttribute('job-id', id)", missing)
    expect(job.locator(".problem")).to_have_text("No such job, or it is not yours.")
