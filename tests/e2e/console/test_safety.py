"""Other users' text never becomes markup in the console, and a page loads few bytes."""

from __future__ import annotations

from collections import defaultdict
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Request, expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker

HOSTILE = (
    '<img src=x onerror="window.breached=1"><script>window.breached=1</script>'
    "<svg/onload=window.breached=1>'\"--></textarea></style>"
)
#: The maximum number of bytes, with headers, until the page is live, without the list of jobs. They
#: take three seconds at 50 kB/s.
FIRST_LOAD_BYTES = 150_000
#: The maximum number of bytes of a hundred jobs from the local Data API, which does not compress.
LIST_BYTES = 150_000


@pytest.mark.browser
def test_hostile_payloads_logs_errors_and_names_are_text(visit: Visit, worker: HandWorker) -> None:
    """No text of a job becomes markup or script on any page of the console."""
    job_id = worker.enqueue({HOSTILE: [HOSTILE]}, idempotency_key=HOSTILE[:200])
    [lease] = worker.lease()
    worker.report(
        lease,
        logs=[{"level": "error", "message": HOSTILE, "metadata": {HOSTILE: HOSTILE}}],
        steps=[{"name": HOSTILE[:100], "result": HOSTILE}],
        progress={"percentage": 50, "stage": HOSTILE, "message": HOSTILE},
    )
    worker.settle(
        lease, "failed", error={"type": "Boom", "message": HOSTILE, "data": {"x": HOSTILE}}
    )
    for statement in (
        "insert into public.accounts (name, workspace_id, domain, industry, city, metadata)"
        " values (%(text)s, %(id)s, 'evil.example', %(text)s, %(text)s, '{}')",
        "insert into public.contacts (name, workspace_id, linkedin_url)"
        " values (%(text)s, %(id)s, 'javascript:window.breached=1')",
        "update public.workspaces set name = %(text)s where id = %(id)s",
    ):
        worker.connection.execute(statement, {"text": HOSTILE, "id": worker.workspace_id})
    visitor = visit(ADA, f"/jobs/{job_id}")
    page = visitor.page
    expect(page.locator(".error-text")).to_have_text(HOSTILE)
    expect(page.locator(".log-line")).to_contain_text("<img src=x")
    page.locator(".log-line").click()

    for path in ("/jobs", "/overview", "/accounts", "/contacts", "/workspace/settings/api"):
        visitor.open(path)
        visitor.settle()
        assert page.locator("main img, main script, a[href^=javascript]").count() == 0
        assert page.evaluate("window.breached") is None


@pytest.mark.browser
def test_the_first_load_is_small(visit: Visit, worker: HandWorker) -> None:
    """The list of jobs loads few bytes, also if its hundred jobs have large payloads."""
    for _ in range(5):
        worker.enqueue_all([{"payload": {"to": "ada", "body": "x" * 180_000}}] * 20)
    visitor = visit(ADA, "")
    finished: list[Request] = []
    visitor.page.on("requestfinished", lambda request: finished.append(request))
    visitor.open("/jobs")
    expect(visitor.page.locator(".job-note").first).to_contain_text("to: ada")
    expect(visitor.page.locator(".freshness")).to_have_attribute("data-freshness", "live")

    bytes_of: dict[str, list[int]] = defaultdict(list)
    for request in finished:
        sizes = request.sizes()
        path = urlsplit(request.url).path
        bytes_of[path].append(sizes["responseHeadersSize"] + sizes["responseBodySize"])
    assert max(bytes_of.pop("/rest/v1/rpc/list_jobs")) < LIST_BYTES
    assert sum(map(sum, bytes_of.values())) < FIRST_LOAD_BYTES, bytes_of
