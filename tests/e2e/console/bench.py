"""`python -m tests.e2e.console.bench`: how fast the console is, against its targets.

First load, scrolling through 10,000 jobs, and 200 events a second on one page; on a stack of its
own, in headless Chromium.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from playwright.sync_api import Browser, sync_playwright
from rich.console import Console
from rich.table import Table

from minutehand.local.users import ACME
from tests.e2e.console.browsers import FLAGS, chromium
from tests.e2e.console.people import ADA, Visitor
from tests.e2e.console.worker import HandWorker
from tests.support.stacks import RunningStack, running_stack

JOBS = 10_000
SCROLL_SECONDS = 6
EVENTS_PER_SECOND = 200
EVENT_SECONDS = 10

_MEASURE = """
() => {
  window.frames_ = []; window.long_ = [];
  new PerformanceObserver((list) => list.getEntries().forEach((e) => window.long_.push(e.duration)))
    .observe({ type: 'longtask' });
  let last = performance.now();
  const step = (now) => {
    window.frames_.push(now - last);
    last = now;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}
"""
_SCROLL = """
async (seconds) => {
  const box = document.querySelector('.table-scroll');
  const until = performance.now() + seconds * 1000;
  while (performance.now() < until) {
    box.scrollTop += 60;
    await new Promise(requestAnimationFrame);
  }
  return box.scrollTop;
}
"""


@dataclass(frozen=True)
class Line:
    """One measurement beside its target."""

    name: str
    value: str
    target: str


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


class MainThread:
    """CPU time of a page's main thread; it tells the page's own cost on a busy machine, too."""

    def __init__(self, visitor: Visitor) -> None:
        self._session = visitor.context.new_cdp_session(visitor.page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._began = self._now()

    def _now(self) -> float:
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    def spent_ms(self) -> float:
        """Since this was made."""
        return (self._now() - self._began) * 1000


def first_load(browser: Browser, stack: RunningStack) -> list[Line]:
    """Navigation to usable list, cold, best of three."""
    times: list[float] = []
    for _ in range(3):
        visitor = Visitor(browser, stack, workspace_id=str(ACME))
        visitor.sign_in(ADA)
        started = time.perf_counter()
        visitor.page.goto("/jobs", wait_until="commit")
        visitor.page.locator(".monitor .search input").wait_for()
        times.append(time.perf_counter() - started)
        visitor.close()
    return [Line("interactive after", f"{min(times) * 1000:.0f} ms", "1,000 ms")]


def slow_load(browser: Browser, stack: RunningStack) -> list[Line]:
    """First paint and usable list over 50 kB a second with 100 ms to the server, cold."""
    visitor = Visitor(browser, stack, workspace_id=str(ACME))
    visitor.sign_in(ADA)
    network = visitor.context.new_cdp_session(visitor.page)
    network.send("Network.enable")
    limits = {"offline": False, "latency": 100, "downloadThroughput": 50_000,
              "uploadThroughput": 50_000}  # fmt: skip
    network.send("Network.emulateNetworkConditions", limits)
    started = time.perf_counter()
    visitor.page.goto("/jobs", wait_until="commit")
    visitor.page.locator(".monitor .search input").wait_for()
    usable = time.perf_counter() - started
    painted = visitor.page.evaluate(
        "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )
    visitor.close()
    return [
        Line("first paint at 50 kB/s", f"{painted:.0f} ms", "2,000 ms"),
        Line("usable at 50 kB/s", f"{usable * 1000:.0f} ms", "5,000 ms"),
    ]


def scrolling(browser: Browser, stack: RunningStack, worker: HandWorker) -> list[Line]:
    """Frames while 10,000 jobs scroll by, page after page."""
    for _ in range(JOBS // 1000):
        worker.enqueue_many([{"payload": {"n": n}} for n in range(1000)])
    visitor = Visitor(browser, stack, workspace_id=str(ACME))
    visitor.sign_in(ADA)
    visitor.open(f"/jobs?job_type={worker.job_type}")
    visitor.page.locator("tr.job-row").first.wait_for()
    visitor.page.evaluate(_MEASURE)
    thread = MainThread(visitor)
    visitor.page.evaluate(_SCROLL, SCROLL_SECONDS)
    spent = thread.spent_ms()
    frames: list[float] = visitor.page.evaluate("window.frames_.slice(2)")
    visitor.close()
    rate = 1000 * len(frames) / sum(frames)
    return [
        Line("scrolling, frames a second", f"{rate:.0f}", "60"),
        Line("scrolling, p95 of a frame", f"{percentile(frames, 0.95):.1f} ms", "16.7 ms"),
        Line("scrolling, CPU per frame", f"{spent / len(frames):.1f} ms", "16.7 ms"),
    ]


def flood(
    browser: Browser, stack: RunningStack, worker: HandWorker, say: Callable[[str], None]
) -> list[Line]:
    """200 events a second of one job, drawn on its page."""
    job_id = worker.enqueue(priority=0)
    [lease] = worker.lease(lease_seconds=600)
    visitor = Visitor(browser, stack, workspace_id=str(ACME))
    visitor.sign_in(ADA)
    visitor.open(f"/jobs/{job_id}")
    visitor.page.wait_for_timeout(1500)
    visitor.page.evaluate(_MEASURE)
    thread = MainThread(visitor)
    sent = _send_events(worker, lease)
    seen = visitor.page.locator(".log .num").first
    give_up = time.monotonic() + 20
    while str(f"{sent:,}") not in seen.inner_text() and time.monotonic() < give_up:
        visitor.page.wait_for_timeout(100)
    say(f"{sent} lines sent, the page says {seen.inner_text()}")
    spent = thread.spent_ms()
    long_tasks: list[float] = visitor.page.evaluate("window.long_")
    freshness = visitor.page.locator(".job-head .freshness").get_attribute("data-freshness")
    visitor.close()
    worst = max(long_tasks, default=0.0)
    return [
        Line(f"{EVENTS_PER_SECOND} events/s, longest task", f"{worst:.0f} ms", "100 ms"),
        Line(f"{EVENTS_PER_SECOND} events/s, long tasks", f"{len(long_tasks)}", "–"),  # noqa: RUF001
        Line(f"{EVENTS_PER_SECOND} events/s, CPU per event", f"{spent / sent:.2f} ms", "5.00 ms"),
        Line("freshness afterwards", str(freshness), "live"),
    ]


def _send_events(worker: HandWorker, lease: dict[str, Any]) -> int:
    sent = 0
    done = threading.Event()

    def send() -> None:
        nonlocal sent
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < EVENT_SECONDS:
            due = int(elapsed * EVENTS_PER_SECOND) - sent
            if due >= 10:
                worker.report(lease, None, *(f"line {sent + n} {uuid4()}" for n in range(due)))
                sent += due
            time.sleep(0.01)
        done.set()

    threading.Thread(target=send, daemon=True).start()
    done.wait(EVENT_SECONDS + 30)
    return sent


def main() -> None:
    """Print the table."""
    console = Console(highlight=False)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_stack(Path(scratch) / "stack") as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        httpx.get(f"{stack.api_url}/jobs")
        lines = [*first_load(browser, stack), *slow_load(browser, stack)]
        with HandWorker(stack, str(ACME)) as worker:
            lines += flood(browser, stack, worker, console.print)
        with HandWorker(stack, str(ACME)) as worker:
            lines += scrolling(browser, stack, worker)
        browser.close()
    table = Table(title="Console", title_justify="left")
    for name in ("measured", "value", "target"):
        table.add_column(name, justify="left" if name == "measured" else "right")
    for line in lines:
        table.add_row(line.name, line.value, line.target)
    console.print(table)


if __name__ == "__main__":
    main()
