"""On somebody else's page, with the page's own client: the README's program, and the parts."""

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
document.body.innerHTML = '<main><h1>Mine</h1><div id="jobs"></div></main>';
await import("/mine/page.js");
"""
APP = """
export const { jobId, jobType, key, token, url, workspaceId } = VALUES;
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
def test_the_documented_upload_is_completed_after_a_reload(
    visit: Visit,
    stack: RunningStack,
    workspace: dict[str, str],
    repository: Path,
    tmp_path: Path,
) -> None:
    """As written there, but for the address; the page closes before it heard that all is there."""
    page_of_docs = (repository / "shared/minutehand/pages/app.md").read_text()
    [program] = re.findall(r"```js\n(import \{ uploadsAt .*?)```", page_of_docs, re.DOTALL)
    for ours, theirs in (("minutehand/uploads", "/lib/uploads.js"), ("memos/uploads", "uploads")):
        program = program.replace(ours, theirs)
    begin = """
        import { supabase, workspaceId as workspace_id } from "/mine/my-app.js";
        const input = document.createElement("input");
        input.type = "file";
        document.querySelector("main").append(input);
        const show = (text) => { document.querySelector("h1").textContent = text; };
        const draw = (all) => { document.getElementById("jobs").textContent =
          all.map((one) => `${one.title} ${one.sent} of ${one.size} ${one.state}`).join(); };
    """
    file = tmp_path / "film.mp4"
    file.write_bytes(b"x" * 1000)
    visitor = visit(None, allow=(r"ERR_FAILED|ERR_ABORTED|net::",))
    page = visitor.page
    serve(page, begin + program, values_of(stack, workspace))
    page.route("**/complete", lambda route: route.abort())

    visitor.open("/mine/")
    with page.expect_request("**/complete"):
        page.locator("input[type=file]").set_input_files(file)
    expect(page.locator("#jobs")).to_have_text("Film 1000 of 1000 finishing")
    page.unroute("**/complete")
    visitor.open("/mine/")

    expect(page.locator("h1")).to_have_text("Film")
    expect(page.locator("#jobs")).to_be_empty()
    kept = "Object.keys(localStorage).filter((name) => name.startsWith('minutehand.uploads'))"
    assert page.evaluate(kept) == []


#: The console's own parts, without its shell.
PARTS = """
import { connect } from "/api.js";
import { makeUseJobStatus } from "/lib/jobs.js";
import { hooks, html, render } from "/lib/ui.js";
import { Confirmations } from "/parts/dialog.js";
import { JobLog, linesOf } from "/parts/job-log.js";
import { JobMonitor } from "/parts/job-monitor.js";
import { JobProgress } from "/parts/job-progress.js";
import { Toasts } from "/parts/toasts.js";
import { jobId, supabase, workspaceId } from "/mine/my-app.js";

connect(supabase);
const useJobStatus = makeUseJobStatus(hooks, supabase);

function MyJobs() {
  const { job, events } = useJobStatus({ jobId, history: true });
  const [filter, setFilter] = hooks.useState({});
  return html`
    ${job && html`<${JobProgress} job=${job} /><${JobLog} lines=${linesOf(events)} live />`}
    <${JobMonitor} workspaceId=${workspaceId} filter=${filter} hrefOf=${(id) => `/my/jobs/${id}`}
      onFilter=${(changes) => setFilter({ ...filter, ...changes })} />
    <${Confirmations} /><${Toasts} />`;
}

render(html`<${MyJobs} />`, document.getElementById("jobs"));
"""


@pytest.mark.browser
def test_the_consoles_parts_follow_and_steer_jobs_on_another_page(
    visit: Visit, worker: HandWorker, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """JobMonitor, JobProgress, JobLog and useJobStatus need nothing of the console's shell."""
    job_id = worker.enqueue({"n": 1}, queue="slow")
    visitor = visit(None)
    page = visitor.page
    serve(page, PARTS, values_of(stack, workspace, jobId=job_id))

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
    expect(page.get_by_role("region", name="Messages")).to_contain_text(
        re.compile(r"Cancell(ed|ing) 1 job")  # a slow machine has it done by the next worker
    )
    expect(row).to_contain_text("Cancelling")
    assert worker.report(lease, 50) == "cancel"
