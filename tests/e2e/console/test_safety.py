"""Other users' text never becomes markup in the console."""

import pytest
from playwright.sync_api import expect

from tests.e2e.console.conftest import Visit
from tests.e2e.console.people import ADA
from tests.e2e.console.worker import HandWorker

HOSTILE = (
    '<img src=x onerror="window.breached=1"><script>window.breached=1</script>'
    "<svg/onload=window.breached=1>'\"--></textarea></style>"
)


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
        "insert into accounts (name, workspace_id, domain, industry, city, metadata)"
        " values (%(text)s, %(id)s, 'evil.example', %(text)s, %(text)s, '{}')",
        "insert into contacts (name, workspace_id, linkedin_url)"
        " values (%(text)s, %(id)s, 'javascript:window.breached=1')",
        "update workspaces set name = %(text)s where id = %(id)s",
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
