"""A workspace with something of everything, for screenshots and for looking at the console."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from dataclasses import dataclass
from typing import Any

import httpx

from minutehand_apps.beacon import demo as beacon
from minutehand_apps.plans import demo as plans
from minutehand_apps.training import demo as training
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack

LINES = [
    "Reading 1,204 invoices of October",
    "Matched 1,172 against the ledger",
    "32 left: asking the bank for their statements",
]


def at(percentage: int, stage: str, message: str) -> dict[str, Any]:
    """Progress as a processor would word it."""
    return {"progress": {"percentage": percentage, "stage": stage, "message": message}}


@dataclass(frozen=True)
class Story:
    """Paths worth a picture."""

    running: str
    asking: str
    failed: str
    benchmark: str
    plan: str
    chat: str
    training: str
    family: str


def remember(stack: RunningStack, workspace_id: str) -> None:
    """An hour of numbers before now, as the engine keeps them."""
    with stack.connect() as connection:
        for ago in range(2, 60):
            busy = 30 + round(18 * math.sin(ago / 7)) + ago % 4
            for outcome, jobs in (("enqueued", busy), ("completed", busy - 2), ("failed", ago % 3)):
                connection.execute(
                    "insert into queue.stat_minutes (minute, job_type, workspace_id, outcome,"
                    " wait_bucket, run_bucket, jobs, cost_usd)"
                    " values (date_trunc('minute', now()) - make_interval(mins => %s),"
                    " 'send_digest', %s, %s, %s, %s, %s, 0)",
                    (ago, workspace_id, outcome, 12 + ago % 9, 22 + ago % 7, jobs),
                )


async def show_apps(stack: RunningStack, workspace_id: str) -> tuple[str, str, str, str]:
    """Run the demos of three apps to their end, and chat; the pages of what they made."""
    headers = {"Authorization": f"Bearer {stack.sign_in('ada@acme.test')}"}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers) as api:
        jobs = [
            *await beacon.enqueue(api, api, workspace_id),
            *await plans.enqueue(api, api, workspace_id),
            *await training.enqueue(api, api, workspace_id),
        ]
        for job in jobs:
            while (await api.get(f"/api/jobs/{job}")).json()["status"] != "completed":  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        mine = {"workspace_id": workspace_id}
        [run] = (await api.get("/api/v1/jobs", params=mine)).json()["jobs"]
        [plan] = (await api.get("/api/plans", params=mine)).json()["plans"]
        [video] = (await api.get("/api/trainings", params=mine)).json()["trainings"]
        chat = await talk(api, workspace_id)
    pages = f"/benchmarks/{run['id']}", f"/plans/{plan['plan_id']}", f"/chat/session#{chat}"
    return (*pages, f"/trainings/{video['id']}")


async def talk(api: httpx.AsyncClient, workspace_id: str) -> str:
    """A conversation with work in it: research that is done, and a page that asks."""
    session = f"guest_{secrets.token_hex(32)}"
    notes = {
        "title": "Notes of the curator",
        "text": "The customs house has a goods lift for two tonnes. The workshop needs running"
        " water. The city pays for the move if the season opens in April.",
    }
    for text, ask in (
        ("Research the curator's notes.", False),
        ("Build a dashboard of visitors: January 310, February 290, March 420", True),
    ):
        said = {
            "messages": [{"role": "user", "content": text}],
            "workspace_id": workspace_id,
            "documents": [notes],
            "ask": ask,
        }
        headers = {"x-session-id": session}
        (await api.post("/api/chat", json=said, headers=headers)).raise_for_status()
        while True:
            now = (await api.get("/api/async-status", params={"sessionId": session})).json()
            if all(each["status"] == "waiting_for_user" for each in now["activeWork"]):
                break
            await asyncio.sleep(0.1)
    return session


def publish(stack: RunningStack, workspace_id: str) -> str:
    """A job that failed once, had its children draw pages, and now uploads what they made."""
    book = HandWorker(stack, workspace_id, job_type="publish_catalogue")
    pages = HandWorker(stack, workspace_id, job_type="render_page")
    job = book.enqueue({"catalogue": 7}, tags=["spring"])
    lease = book.lease_soon()
    time.sleep(0.6)
    book.report(lease, 10, steps=[{"name": "read products", "result": 1204, "took_ms": 580}])
    error = {"type": "Timeout", "message": "the price service did not answer within 2 s"}
    book.settle(lease, "retry", error=error, retry_after_seconds=0)
    lease = book.lease_soon()
    book.report(lease, 20, steps=[{"name": "fetch prices", "result": 3, "took_ms": 120}])
    children = book.spawn(lease, 4, job_type="render_page")
    wait = {"kind": "children", "name": "pages", "job_ids": children}
    book.settle(lease, "waiting", wait=wait)
    for number in range(4):
        page = pages.lease_soon()
        time.sleep(0.2 + 0.25 * number)
        pages.report(page, 90, steps=[{"name": "layout", "result": 1, "took_ms": 100}])
        pages.settle(page, result={"page": number})
    lease = book.lease_soon()
    time.sleep(0.4)
    step = {"name": "upload to the printer", "for_ms": 40}
    done = [{"name": "bind pages", "result": 1, "took_ms": 300}]
    book.report(lease, 80, steps=done, step=step)
    return f"/jobs/{job}"


def fail(stack: RunningStack, workspace_id: str) -> str:
    """Tell of a job that failed twice at the same line of its processor."""
    rates = HandWorker(stack, workspace_id, job_type="import_rates")
    job = rates.enqueue({"day": "2026-11-20", "currencies": ["CHF", "XAU"]}, max_attempts=2)
    places = (
        (41, "convert", "return amount * rates[currency]"),
        (28, "import_rates", "total += convert(amount, currency, rates)"),
    )
    frames = [
        {"file": "jobs/rates.py", "line": line, "function": function, "code": code, "own": True}
        for line, function, code in places
    ]
    error = {
        "type": "KeyError",
        "message": "'XAU'",
        "traceback": {"frames": frames, "causes": [], "left_out": 3},
    }
    for attempt in (1, 2):
        lease = rates.lease_soon()
        rates.report(lease, 40, "Reading rates of 2026-11-20", f"{29 + attempt} currencies")
        if attempt == 1:
            rates.report(lease, steps=[{"name": "fetch rates", "result": 30, "took_ms": 340}])
        rates.report(lease, logs=[{"level": "error", "message": "no rate for XAU"}])
        time.sleep(0.5)
        rates.settle(lease, "retry", error=error, retry_after_seconds=0)
    return f"/jobs/{job}"


def tell(stack: RunningStack, workspace_id: str) -> Story:
    """Make jobs of several types in every state, and what the apps show."""
    benchmark, plan, chat, video = asyncio.run(show_apps(stack, workspace_id))
    remember(stack, workspace_id)
    reports = HandWorker(stack, workspace_id, job_type="reconcile_ledger")
    mails = HandWorker(stack, workspace_id, job_type="send_digest")
    mails.enqueue_many([{"payload": {"to": f"team-{n}@acme.test"}} for n in range(14)])
    for n in range(9):
        [lease] = mails.lease()
        mails.report(lease, 100)
        error: dict[str, Any] = {
            "type": "Refused",
            "message": f"mailbox team-{n}@acme.test is full (552)",
        }
        if n % 4 == 3:
            mails.settle(lease, "failed", error=error)
        else:
            mails.settle(lease, result={"message_id": f"m-{n}"}, duration_ms=180 + n * 40)
    mails.enqueue({"to": "later@acme.test"}, delay_seconds=5400)
    asking = reports.enqueue({"month": "2026-09"})
    [lease] = reports.lease()
    reports.report(lease, **at(60, "compare", "Compared 1,204 invoices with the ledger"))
    reports.report(lease, None, *LINES, steps=[{"name": "match", "result": {"matched": 1172}}])
    wait = {
        "kind": "ask",
        "name": "difference",
        "question": "The ledger and the bank differ by 12.40. Book it as a rounding difference?",
        "options": ["Book it", "Leave it open"],
    }
    reports.settle(lease, "waiting", wait=wait)
    running = reports.enqueue({"month": "2026-10", "accounts": ["1200", "1210"], "dry_run": False})
    reports.lease(lease_seconds=1)  # whoever took it is never heard of again
    lease = reports.lease_soon()
    error = {"type": "Timeout", "message": "the bank did not answer within 2 s"}
    reports.report(lease, None, LINES[0])
    for percentage in (15, 25, 35):
        reports.report(lease, **at(percentage, "read", "Reading invoices"))
        time.sleep(0.7)
    reports.settle(lease, "retry", error=error, retry_after_seconds=0)
    [lease] = reports.lease(lease_seconds=900)
    reports.report(lease, None, *LINES)
    for percentage in (45, 52, 60):
        reports.report(lease, **at(percentage, "match", "Matched 1,172 of 1,204 invoices"))
        time.sleep(0.7)
    reports.report(lease, **at(68, "statements", "Statement 7 of 12 from the bank"))
    reports.report(lease, logs=[{"level": "warning", "message": "Statement 7 is late"}])
    return Story(
        family=publish(stack, workspace_id),
        running=f"/jobs/{running}",
        asking=f"/jobs/{asking}",
        failed=fail(stack, workspace_id),
        benchmark=benchmark,
        plan=plan,
        chat=chat,
        training=video,
    )
