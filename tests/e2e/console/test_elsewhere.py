"""The parts on somebody else's page: the README's own program, with the page's own client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

#: In place of the console's own program, so that the page has an origin and a policy like it.
PAGE = """
document.body.innerHTML = '<h1>Mine</h1><div id="jobs"></div>';
await import("/mine/page.js");
"""
APP = """
export const { jobId, workspaceId } = VALUES;
export const supabase = globalThis.supabase.createClient(VALUES.url, VALUES.key);
await supabase.auth.signInWithPassword({ email: VALUES.email, password: VALUES.password });
"""


def values_of(stack: RunningStack, workspace: dict[str, str], **more: str) -> dict[str, str]:
    """What a page of one's own knows."""
    return {
        "workspaceId": workspace["id"],
        "url": stack.supabase_url,
        "key": stack.supabase_publishable_key,
        "email": ADA.email,
        "password": stack.demo_password,
        **more,
    }


def serve(page: Page, program: str, values: dict[str, str]) -> None:
    """Serve a program in place of the console's, below /mine/."""
    files = {
        "/app.js": PAGE,
        "/mine/page.js": program,
        "/mine/my-app.js": f"const VALUES = {json.dumps(values)};{APP}",
    }

    def answer(route: Route) -> None:
        body = files[urlsplit(route.request.url).path]
        route.fulfill(content_type="text/javascript", body=body)

    for path in files:
        page.route(f"**{path}", answer)


@pytest.mark.browser
def test_the_readmes_first_program_enqueues_and_follows_a_job(
    visit: Visit,
    worker: HandWorker,
    stack: RunningStack,
    workspace: dict[str, str],
    repository: Path,
) -> None:
    """As written there, but for where the modules are and which type there is."""
    readme = (repository / "infra/console/README.md").read_text()
    [program] = re.findall(r"```js\n(import \{ enqueue, .*?)```", readme, re.DOTALL)
    program = program.replace('"minutehand"', '"/lib/jobs.js"').replace(
        "invoices.mail", worker.job_type
    )
    begin = 'import { supabase, workspaceId as workspace_id } from "/mine/my-app.js";'
    show = "const draw = (...now) => { document.getElementById('jobs').textContent = now.join(); };"
    end = "document.querySelector('h1').textContent = ended.status;"
    visitor = visit(None)
    serve(visitor.page, f"{begin}\n{show}\n{program}\n{end}", values_of(stack, workspace))

    visitor.open("/mine/")
    # its files are served from here, so not while this waits for a lease
    expect(visitor.page.locator("#jobs")).to_contain_text("pending")
    lease = worker.lease_soon()
    worker.report(lease, 40)
    expect(visitor.page.locator("#jobs")).to_have_text("processing,40,live")
    worker.settle(lease, result={"sent_to": []})

    expect(visitor.page.locator("h1")).to_have_text("completed")
    assert lease["job"]["payload"] == {"invoice": 7}


@pytest.mark.browser
def test_the_readmes_program_follows_and_steers_jobs_on_a_page_of_its_own(
    visit: Visit,
    worker: HandWorker,
    stack: RunningStack,
    workspace: dict[str, str],
    repository: Path,
) -> None:
    """JobMonitor, JobProgress, JobLog and useJobStatus need nothing of the console's shell."""
    readme = (repository / "infra/console/README.md").read_text()
    [program] = re.findall(r"```js\n(import \{ connect, .*?)```", readme, re.DOTALL)
    job_id = worker.enqueue({"n": 1}, queue="slow")
    visitor = visit(None)
    page = visitor.page
    serve(page, program, values_of(stack, workspace, jobId=job_id))

    visitor.open("/mine/")
    [lease] = worker.lease()
    worker.report(lease, 40, "the first line")

    expect(page.locator("#jobs > .progress [role=progressbar]")).to_have_attribute(
        "aria-valuenow", "40"
    )
    expect(page.locator(".log-line")).to_contain_text("the first line")
    row = page.locator(f"tr[data-job='{job_id}']")
    expect(row.locator("a.row-link")).to_have_attribute("href", f"/my/jobs/{job_id}")
    row.get_by_role("checkbox").check()
    page.get_by_role("button", name="Cancel 1", exact=True).click()
    page.get_by_role("button", name="Cancel 1 job").click()
    expect(page.get_by_role("region", name="Messages")).to_contain_text("Cancelled 1 job")
    assert worker.report(lease, 50) == "cancel"
