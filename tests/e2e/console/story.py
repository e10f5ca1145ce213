"""A workspace with something of everything, for screenshots and for looking at the console."""

from __future__ import annotations

from dataclasses import dataclass

from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

LINES = [
    "Reading 1,204 invoices of October",
    "Matched 1,172 against the ledger",
    "32 left: asking the bank for their statements",
]


@dataclass(frozen=True)
class Story:
    """Paths worth a picture."""

    running: str
    asking: str
    failed: str


def tell(stack: RunningStack, workspace_id: str) -> Story:
    """Make jobs of several types in every state."""
    reports = HandWorker(stack, workspace_id, job_type="reconcile_ledger")
    mails = HandWorker(stack, workspace_id, job_type="send_digest")
    mails.enqueue_many([{"payload": {"to": f"team-{n}@acme.test"}} for n in range(14)])
    for n in range(9):
        [lease] = mails.lease()
        mails.report(lease, 100)
        error = {"type": "Refused", "message": f"mailbox team-{n}@acme.test is full (552)"}
        if n % 4 == 3:
            mails.settle(lease, "failed", error=error)
        else:
            mails.settle(lease, result={"message_id": f"m-{n}"}, duration_ms=180 + n * 40)
    mails.enqueue({"to": "later@acme.test"}, delay_seconds=5400)
    failed = mails.enqueue({"to": "team-9@acme.test"}, priority=0, max_attempts=3)
    for _ in range(3):
        [lease] = mails.lease()
        mails.report(lease, 20, "Rendering", "Handing over to the mail server")
        mails.report(lease, logs=[{"level": "error", "message": "552 mailbox is full"}])
        error = {"type": "Refused", "message": "552 mailbox is full", "data": {"code": 552}}
        mails.settle(lease, "retry", error=error, retry_after_seconds=0)
    asking = reports.enqueue({"month": "2026-09"})
    [lease] = reports.lease()
    reports.report(lease, 60, *LINES, steps=[{"name": "match", "result": {"matched": 1172}}])
    wait = {
        "kind": "ask",
        "name": "difference",
        "question": "The ledger and the bank differ by 12.40. Book it as a rounding difference?",
        "options": ["Book it", "Leave it open"],
    }
    reports.settle(lease, "waiting", wait=wait)
    running = reports.enqueue({"month": "2026-10", "accounts": ["1200", "1210"], "dry_run": False})
    [lease] = reports.lease(lease_seconds=900)
    error = {"type": "Timeout", "message": "the bank did not answer within 10 s"}
    reports.report(lease, 15, LINES[0])
    reports.settle(lease, "retry", error=error, retry_after_seconds=0)
    [lease] = reports.lease(lease_seconds=900)
    reports.report(lease, 45, *LINES)
    reports.report(lease, 68, logs=[{"level": "warning", "message": "Statement 7 is late"}])
    return Story(running=f"/jobs/{running}", asking=f"/jobs/{asking}", failed=f"/jobs/{failed}")
