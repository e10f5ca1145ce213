"""The element `minutehand-job` and the hooks on a user's page without a build step."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.looking import violations
from tests.e2e.console.worker import HandWorker
from tests.support.engine import MISSING, piece
from tests.support.paths import ROOT
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.browser

EVIL = "<img src=x onerror=\"document.title='breached'\">"
BODY = '<main><h1>Mine</h1><div id="mine"></div></main>'
PAGE = """
const job = document.createElement("minutehand-job");
Object.assign(job, { client, texts: { running: "Läuft" } }); // set before it is defined
job.setAttribute("job-id", given.id);
job.setAttribute("schema", "public");
document.getElementById("mine").append(job);
document.addEventListener("jobend", ({ detail }) => {
  document.querySelector("h1").textContent = detail.job.result.answer;
});
await import("/mine/infra/console/lib/element.js");
"""


#: The client of a page's script.
CLIENT = """
const { url, key, token } = given;
const client = globalThis.supabase.createClient(url, key, { accessToken: async () => token });
"""
#: A component that enqueues a job, shows it and records each render.
HOOKS = """
const { createHooks, h, hooks, render } = await import("/app.js");
const { workspace_id, type } = given;
const { useEnqueue, useJob } = createHooks(hooks, client, { workspace_id, schema: "public" });
globalThis.renders = [];
globalThis.ends = [];
function Mine() {
  const made = useEnqueue(type, { onEnd: (job) => globalThis.ends.push(job.id) });
  const followed = useJob(made.job?.id);
  globalThis.renders.push([made.job?.id, followed.job?.id ?? null, followed.isEnded]);
  globalThis.mine = { made, followed };
  return h("p", {}, made.status ?? made.problem?.code ?? "none");
}
render(h(Mine), document.getElementById("mine"));
"""


#: A script that draws a part which fails inside `Guarded`, and then one which does not fail.
GUARDED = """
const { Guarded, h, render } = await import("/app.js");
const Part = ({ text }) => h("p", {}, text.trim());
globalThis.draw = (text) =>
  render(h(Guarded, { what: "The part" }, h(Part, { text })), document.getElementById("mine"));
draw(null);
"""


@pytest.fixture
def mine(visit: Visit, worker: HandWorker, stack: RunningStack) -> Callable[..., Page]:
    """Open a page of the console, remove its content, and run a script in it.

    `/mine/` serves the files of the checkout.
    """

    def open_page(script: str, **values: str | None) -> Page:
        given = {
            "url": stack.supabase_url,
            "key": stack.supabase_publishable_key,
            "token": stack.sign_in("ada@acme.test"),
            **values,
        }
        visitor = visit(None, allow=("status of 4", "of null"))
        page: Page = visitor.page

        def serve(route: Route) -> None:
            path = ROOT / route.request.url.split("/mine/")[1]
            route.fulfill(content_type="text/javascript", body=path.read_text())

        page.route("**/mine/**", serve)
        page.evaluate("(html) => void (document.body.innerHTML = html)", BODY)
        page.add_script_tag(url="/mine/node_modules/@supabase/supabase-js/dist/umd/supabase.js")
        page.evaluate(f"async () => {{ const given = {json.dumps(given)}; {CLIENT} {script} }}")
        return page

    return open_page


def test_hooks_return_the_job_of_their_id_and_change_it(
    mine: Callable[..., Page], worker: HandWorker
) -> None:
    """The hooks enqueue two jobs one after the other.

    No render shows the first job's end with the second job.
    """
    page = mine(HOOKS, workspace_id=worker.workspace_id, type=worker.job_type)
    status = page.locator("#mine p")
    expect(status).to_have_text("none")
    ids = []
    for _ in range(2):
        page.evaluate("void mine.made.enqueue({ n: 1 })")
        lease = worker.lease_one()
        ids.append(lease["job"]["id"])
        worker.settle(lease, result={"answer": 42}, output=[piece(ids[-1])])
        page.wait_for_function("(id) => ends.at(-1) === id", arg=ids[-1])
        page.wait_for_function("(id) => mine.followed.output.reply === id", arg=ids[-1])
    page.evaluate("void mine.made.enqueue({ n: 3 }, { delay_seconds: 900 })")
    expect(status).to_have_text("pending")
    assert page.evaluate("mine.followed.cancel().then((job) => job.status)") == "cancelled"
    expect(status).to_have_text("cancelled")
    page.wait_for_function("() => ends.length === 3")  # an immediate retry would send no end event
    assert page.evaluate("mine.made.retry({ n: 4 }).then((job) => job.payload.n)") == 4
    for name in ("first", "second"):
        wait = {"kind": "ask", "name": name, "question": "Go?"}
        worker.settle(worker.lease_one(), "waiting", wait=wait)
        if name == "first":
            page.wait_for_function("() => mine.made.job.waiting_for?.name === 'first'")
            page.evaluate("(globalThis.first = mine.made.answer)('yes')")
    second_click = "first('yes').catch((problem) => problem.code)"
    assert page.evaluate(second_click) == "invalid_state", "it does not answer the next question"
    page.evaluate("void mine.made.enqueue([])")
    expect(status).to_have_text("payload_invalid")

    assert page.evaluate("ends.length") == 3
    wrong = "renders.filter(([id, shown, isEnded]) => (shown && shown !== id) || (!id && isEnded))"
    assert page.evaluate(wrong) == []


def test_a_page_without_a_build_shows_a_job(mine: Callable[..., Page], worker: HandWorker) -> None:
    """The element shows a job's state, progress, output, question and result, and escapes text.

    For a foreign id it shows an error.
    """
    page = mine(PAGE, id=worker.enqueue())
    job = page.locator("minutehand-job")
    expect(job.locator(".state")).to_have_text("Queued")

    lease = worker.lease_one()
    worker.report(lease, progress={"percentage": 40, "message": EVIL})
    expect(job.locator(".state")).to_have_text("Läuft")
    expect(job.get_by_role("progressbar")).to_have_js_property("value", 40)
    expect(job.locator(".message")).to_have_text(EVIL)

    worker.say(lease, piece(f"{EVIL} is"))
    expect(job.locator(".output")).to_have_text(f"{EVIL} is")
    select = "({ firstChild: said }) => getSelection().setBaseAndExtent(said, 1, said, 4)"
    job.locator(".output").evaluate(select)
    worker.say(lease, piece(" text", len(EVIL) + 3))
    expect(job.locator(".output")).to_have_text(f"{EVIL} is text")
    assert page.evaluate("getSelection().toString()") == "img", "a selection stays"

    wait = {"kind": "ask", "name": "q", "question": "Which colour?", "options": ["red", "blue"]}
    worker.settle(lease, "waiting", wait=wait)
    expect(job.locator(".asked")).to_have_text("Which colour?")
    assert violations(page) == []
    job.get_by_role("button", name="blue").click()
    expect(job.locator(".question")).to_be_hidden()

    worker.settle(worker.lease_one(), result={"answer": "42"})
    expect(job.locator(".state")).to_have_text("Completed")
    expect(page.locator("h1")).to_have_text("42")
    assert page.title() != "breached"
    job.evaluate("(job, id) => job.setAttribute('job-id', id)", MISSING)
    expect(job.locator(".problem")).to_have_text("Job not found, or not yours.")
    with page.expect_request("**/rpc/guest_job"):
        job.evaluate("(job) => job.setAttribute('session-id', 'guest_0')")


def test_a_guarded_part_is_drawn_again_when_its_content_changes(mine: Callable[..., Page]) -> None:
    page = mine(GUARDED)
    expect(page.locator("#mine")).to_have_text("The part cannot be shown.")

    page.evaluate("draw('better')")

    expect(page.locator("#mine")).to_have_text("better")
