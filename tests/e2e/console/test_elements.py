"""The custom elements in Chromium: on a page without a build, and in React, Vue and Svelte."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, WebSocket, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import picture, violations
from tests.e2e.console.test_elsewhere import serve, values_of
from tests.e2e.console.worker import HandWorker
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack
from tests.support.stranger import Stranger

pytestmark = pytest.mark.browser

README = (ROOT / "infra/console/npm/README.md").read_text("utf-8")
EVIL = "<img src=x onerror=\"document.title='breached'\">"
#: Everything is there before the elements are defined: in the page's text, or set by its program.
PLAIN = """
import { jobId, supabase, workspaceId } from "/mine/my-app.js";

globalThis.client = supabase;
document.documentElement.lang = "de";
const job = document.createElement("minutehand-job");
Object.assign(job, { client: supabase, texts: { running: "Läuft", log: "Protokoll" } });
const set = (one, attributes) =>
  Object.entries(attributes).forEach(([name, value]) => one.setAttribute(name, value));
set(job, { "job-id": jobId, schema: "public", "text-completed": "Fertig" });
const jobs = document.createElement("minutehand-jobs");
Object.assign(jobs, { client: supabase, labelOf: (row) => `Import ${row.tags[0]}` });
set(jobs, { "workspace-id": workspaceId, tag: "mine", schema: "public" });
document.getElementById("jobs").append(job, jobs);
document.addEventListener("jobend", ({ target, detail }) => {
  if (target === job) document.querySelector("h1").textContent = detail.job.result.answer;
});
await import("/lib/elements.js");
"""
#: What a page in a framework shows: the README's component, and its program around it.
FRAMEWORKS = {
    "react": """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { makeHooks } from "minutehand/react";
import { workspaceId } from "/mine/my-app.js";
import { Job } from "./job.js";
import { supabase } from "./supabase.js";

const { useJobs } = makeHooks(supabase, { workspace_id: workspaceId });
function Tagged() {
  const { jobs } = useJobs("mine");
  const line = ({ id, state, progress }) => <li key={id}>{state} {progress?.percentage}</li>;
  return <ol>{jobs.map(line)}</ol>;
}
createRoot(document.getElementById("jobs")!).render(
  <StrictMode><Job workspace_id={workspaceId} /><Tagged /></StrictMode>,
);
""",
    "vue": """
import { createApp } from "vue";
import { jobId } from "/mine/my-app.js";
import Job from "./job.vue";

const onEnded = (job) => (document.querySelector("h1").textContent = job.result.greeting);
createApp(Job, { jobId, onEnded }).mount("#jobs");
""",
    "svelte": """
import { mount } from "svelte";
import { jobId } from "/mine/my-app.js";
import Job from "./job.svelte";

const onended = (job) => (document.querySelector("h1").textContent = job.result.greeting);
mount(Job, { target: document.getElementById("jobs"), props: { jobId, onended } });
""",
}
SUPABASE = """
import { setSchema } from "minutehand";
import { supabase } from "/mine/my-app.js";
setSchema(supabase, "public");
export { supabase };
"""
PACKAGES = (
    "react@19.3.1", "react-dom@19.3.1", "vue@3.5.45", "svelte@5.57.3", "esbuild@0.28.2"
)  # fmt: skip


def part(element: Locator, name: str) -> Locator:
    """What a page would style by `::part(name)`."""
    return element.locator(f"[part={name}]")


def ask(
    worker: HandWorker, lease: dict[str, object], name: str, question: str, *options: str
) -> None:
    """Suspend a job with a question."""
    wait = {"kind": "ask", "name": name, "question": question, "options": list(options) or None}
    worker.settle(lease, "waiting", wait=wait)


def test_a_page_without_a_build_shows_a_job_and_a_list(
    visit: Visit,
    worker: HandWorker,
    stack: RunningStack,
    workspace: dict[str, str],
    repository: Path,
) -> None:
    """State, progress, log, questions, error, result: over one socket, gone with the elements."""
    job_id, _ = worker.enqueue_many([{"tags": ["mine"]}, {"tags": ["other"], "delay_seconds": 900}])
    visitor = visit(None)
    page, sockets = visitor.page, list[WebSocket]()
    page.on("websocket", lambda socket: sockets.append(socket))
    serve(page, PLAIN, values_of(stack, workspace, jobId=job_id))
    visitor.open("/mine/")
    job = page.locator("#jobs > minutehand-job")
    rows = page.locator("minutehand-jobs minutehand-job")
    expect(part(job, "state")).to_have_text("Queued")
    expect(part(job, "freshness")).to_have_text("Live")
    expect(part(rows, "label")).to_have_text("Import mine")

    lease = worker.lease_soon()
    worker.report(lease, None, EVIL, progress={"percentage": 40, "message": EVIL})
    expect(part(job, "state")).to_have_text("Läuft")
    for shown in (job, rows):
        expect(shown.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
        expect(part(shown, "message")).to_have_text(EVIL)
    expect(part(job, "percentage")).to_have_text("40\u00a0%")
    part(job, "summary").click()
    expect(part(job, "line")).to_contain_text(EVIL)
    worker.report(lease, 41, "as it happens")
    expect(part(job, "line").last).to_contain_text("as it happens")
    picture(page, "element-running")

    ask(worker, lease, "colour", f"Which colour? {EVIL}", "red", "blue")
    expect(part(job, "asked")).to_have_text(f"Which colour? {EVIL}")
    expect(job.get_by_role("status")).to_have_text(f"Suspended: Which colour? {EVIL}")
    assert violations(page, repository) == []
    picture(page, "element-asking")
    job.get_by_role("button", name="blue").focus()
    page.keyboard.press("Enter")
    expect(part(job, "question")).to_be_hidden()
    lease = worker.lease_soon()
    ask(worker, lease, "name", "And its name?")
    rows.get_by_role("textbox", name="Your answer").fill("Ada")
    page.keyboard.press("Enter")
    expect(part(rows, "question")).to_be_hidden()

    lease = worker.lease_soon()
    worker.settle(lease, result={"answer": "42"})
    expect(part(job, "state")).to_have_text("Fertig")
    expect(page.locator("h1")).to_have_text("42")
    assert page.title() != "breached"
    assert page.evaluate("document.querySelectorAll('img').length") == 0

    worker.enqueue_many([{"tags": ["mine"], "max_attempts": 1}])
    expect(rows).to_have_count(2)
    worker.settle(worker.lease_soon(), "failed", error={"message": f"No {EVIL}", "type": "Odd"})
    expect(part(rows.first, "error")).to_have_text(f"No {EVIL}")
    assert violations(page, repository) == []
    picture(page, "element-ended")

    assert sum(not socket.is_closed() for socket in sockets) == 1
    page.evaluate(
        "document.querySelector('#jobs').append(document.querySelector('minutehand-job'))"
    )
    expect(part(job, "state")).to_have_text("Fertig")

    # the same element for another job, as a framework reuses it
    [second] = worker.enqueue_many([{"tags": ["other"]}])
    lease = worker.lease_soon()
    worker.report(lease, 10, "of the second")
    job.evaluate("(job, id) => job.setAttribute('job-id', id)", second)
    expect(part(job, "line")).to_have_count(1)
    expect(part(job, "line")).to_contain_text("of the second")
    job.evaluate("(job, id) => job.setAttribute('job-id', id)", job_id)
    expect(part(job, "line")).to_have_count(2)

    page.evaluate("document.querySelector('#jobs').replaceChildren()")
    page.wait_for_function("() => client.getChannels().length === 0")


@pytest.fixture(scope="module")
def bundles(npm_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's components, bundled in a project that has the packed archive."""
    folder = tmp_path_factory.mktemp("frameworks")
    stranger = Stranger.make(folder, npm_archive, *PACKAGES)
    components = {"tsx": "job.tsx", "vue": "job.vue", "svelte": "job.svelte"}
    for language, name in components.items():
        [component] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        text = component.replace("Greet(", "Job(").replace('"jobs.hello"', "jobType")
        text = text.replace("{ workspace_id });", "{ workspace_id, tags: ['mine'] });")
        begin = 'import { jobType } from "/mine/my-app.js";\n' if language == "tsx" else ""
        (folder / name).write_text(begin + text)
    for name, program in FRAMEWORKS.items():
        ending = "tsx" if name == "react" else "js"
        (folder / f"main.{name}.{ending}").write_text(program)
    (folder / "supabase.js").write_text(SUPABASE)
    build = (ROOT / "tests/e2e/console/js/frameworks.mjs").read_text("utf-8")
    (folder / "node_modules" / "build.mjs").write_text(build)
    assert stranger.node("build.mjs") == ""
    return folder / "out"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_readmes_component_in_a_framework(
    framework: str, bundles: Path, visit: Visit, worker: HandWorker, stack: RunningStack,
    workspace: dict[str, str],
) -> None:  # fmt: skip
    """Client and id by property and attribute, progress, the end as an event."""
    job_id = "" if framework == "react" else worker.enqueue({"name": "Ada"})
    visitor = visit(None)
    page = visitor.page
    program = (bundles / f"main.{framework}.js").read_text("utf-8")
    values = values_of(stack, workspace, jobId=job_id, jobType=worker.job_type)
    serve(page, program, values)
    visitor.open("/mine/")
    if framework == "react":
        page.get_by_role("button", name="Greet").click()
        expect(page.get_by_role("listitem")).to_have_text("queued 0")
    job = page.locator("minutehand-job")
    expect(part(job, "state")).to_have_text("Queued")

    lease = worker.lease_soon()
    worker.report(lease, 40)
    expect(job.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "40")
    if framework == "react":
        expect(page.get_by_role("listitem")).to_have_text("running 40")
    worker.settle(lease, result={"greeting": "Hello, Ada!"})
    expect(part(job, "state")).to_have_text("Completed")
    ended = page.get_by_role("button" if framework == "react" else "heading")
    expect(ended).to_have_text("Hello, Ada!")


#: Three elements by attributes and a token, the last of a job that is not there.
REFUSED = """
import { jobId, key, token, url } from "/mine/my-app.js";

const place = document.getElementById("jobs");
const add = (id, token) => {
  const job = document.createElement("minutehand-job");
  for (const [name, value] of Object.entries({ url, key, schema: "public", "job-id": id }))
    job.setAttribute(name, value);
  job.token = token;
  place.append(job);
};
await import("/lib/element.js");
globalThis.made = 0;
const { createClient } = globalThis.supabase;
globalThis.supabase = { createClient: (...given) => ((made += 1), createClient(...given)) };
add(jobId, () => token);
add(jobId, () => token);
add("00000000-0000-7000-8000-000000000000", () => token);
globalThis.sign = (to) => {
  for (const job of place.children) job.token = to;
};
"""


def test_an_element_by_attributes_and_what_it_says_where_it_may_not_read(
    visit: Visit, worker: HandWorker, stack: RunningStack, workspace: dict[str, str]
) -> None:
    """One client for the page; without the right to it, nothing of the job is shown."""
    job_id = worker.enqueue({}, queue="slow")
    visitor = visit(None, allow=("status of 40[014]", "ERR_", "WebSocket"))
    page = visitor.page
    token = stack.sign_in("ada@acme.test")
    serve(page, REFUSED, values_of(stack, workspace, jobId=job_id, token=token))
    visitor.open("/mine/")
    jobs = page.locator("minutehand-job")
    first = jobs.first
    expect(part(first, "state")).to_have_text("Queued")
    expect(part(jobs.last, "problem")).to_have_text("No such job, or it is not yours.")
    assert page.evaluate("made") == 1
    assert token not in page.content()

    visitor.context.set_offline(True)
    expect(part(first, "freshness")).to_have_text("Offline")
    visitor.context.set_offline(False)
    expect(part(first, "freshness")).to_have_text("Live")

    page.evaluate("(token) => sign(token)", stack.sign_in("eve@globex.test"))
    expect(part(first, "problem")).to_have_text("No such job, or it is not yours.")
    expect(part(first, "label")).to_be_hidden()
    page.evaluate("sign(null)")
    expect(part(first, "problem")).to_have_text("Sign in to see this.")
    page.evaluate("(token) => sign(token)", token)
    expect(part(first, "state")).to_have_text("Queued")
