"""The waterfall of a job in a terminal: its attempts, steps, waits and children on one time axis.

The page draws the same `job_trace`; zooming, folding and the critical path are the page's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.text import Text

from minutehand.terminal.output import Output, lasted, shown, state_style

#: A span's character and style by what the time went into.
MARKS = {
    "queued": ("·", "dim"),
    "run": ("█", "blue"),
    "step": ("▬", "green"),
    "wait": ("─", "magenta"),
    "backoff": ("╌", "yellow"),
    "failed": ("█", "red"),
}
LEGEND = "· queued  █ runs  ▬ step  ─ waits  ╌ before a retry"
#: As wide as `+3 min 20 s`.
TIME = 11
#: Narrower than this no bar can be read: then there is none.
LEAST_BAR = 8
_RETRIED = {"retry", "snoozed", "lost", "released"}


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of time, in milliseconds since the first job was made."""

    kind: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the waterfall."""

    level: int
    name: str
    state: str
    spans: tuple[Span, ...]
    error: str | None = None

    @property
    def start(self) -> float:
        """When it begins, in milliseconds."""
        return self.spans[0].start if self.spans else 0.0

    @property
    def end(self) -> float:
        """When it ends, or now."""
        return self.spans[-1].end if self.spans else 0.0


def rows_of(trace: dict[str, Any]) -> list[Row]:
    """The rows of a trace as the API gives it: a job, then what is in it in order of time."""
    jobs = trace["jobs"]
    if not jobs:
        return []
    origin = datetime.fromisoformat(jobs[0]["created_at"])

    def at(instant: str | None) -> float:
        told = datetime.fromisoformat(instant or trace["now"])
        return max(0.0, (told - origin).total_seconds() * 1000)

    def below(job: dict[str, Any], level: int) -> Iterator[Row]:
        state = _state(job, trace["now"])
        yield Row(level, job["job_type"], state, tuple(_spans(job, at)), job["error_message"])
        parts = [*_parts(job, level + 1, at)]
        groups = [(row.start, [row]) for row in parts]
        for child in jobs:
            if child["parent_id"] == job["id"]:
                groups.append((at(child["created_at"]), list(below(child, level + 1))))
        for _, rows in sorted(groups, key=lambda group: group[0]):
            yield from rows

    return list(below(jobs[0], 0))


def _state(job: dict[str, Any], now: str) -> str:
    """The state shown to people, as `queue.state_of` derives it."""
    status = str(job["status"])
    if status != "pending":
        return {"processing": "running", "waiting": "suspended"}.get(status, status)
    later = job["next_retry_at"] or job["scheduled_for"]
    if later is None or datetime.fromisoformat(later) <= datetime.fromisoformat(now):
        return "queued"
    return "retrying" if job["next_retry_at"] else "scheduled"


def _spans(job: dict[str, Any], at: Any) -> Iterator[Span]:
    """What a job's time went into, without gaps, from its making to its end or now."""
    before, reason = at(job["created_at"]), "queued"
    for run in job["attempts"]:
        start, end = at(run["leased_at"]), at(run["ended_at"])
        if start > before:
            yield Span(reason, before, start)
        failed = run["outcome"] in {"failed", "lost"} or run["error_message"]
        yield Span("failed" if failed else "run", start, end)
        before = end
        reason = "wait" if run["outcome"] == "waiting" else "queued"
        reason = "backoff" if run["outcome"] in _RETRIED else reason
    end = at(job["finished_at"])
    if end > before or not job["attempts"]:
        yield Span(reason, before, max(before, end))


def _parts(job: dict[str, Any], level: int, at: Any) -> Iterator[Row]:
    """Attempts, where there was more than one or one that failed, and steps and waits."""
    # a run that ended in a wait is not an attempt of its own: the next one continues it
    runs = [run for run in job["attempts"] if run["outcome"] != "waiting"]
    if len(runs) > 1 or any(run["error_message"] for run in runs):
        for run in runs:
            kind = "failed" if run["error_message"] else "run"
            span = Span(kind, at(run["leased_at"]), at(run["ended_at"]))
            state = run["outcome"] or "running"
            yield Row(level, f"attempt {run['attempt']}", state, (span,), run["error_message"])
    for step in job["steps"]:
        end = at(step["ended_at"])
        start = end if step["started_at"] is None else at(step["started_at"])
        is_step = step["kind"] == "step"
        state = ("done" if is_step else "over") if step["ended_at"] else "now"
        name = step["name"] if is_step else f"{step['name']} ({step['kind']})"
        yield Row(level, name, state, (Span("step" if is_step else "wait", start, end),))


def bar(spans: Sequence[Span], total: float, width: int) -> Text:
    """Spans as characters of a line; what is shorter than one still gets one."""
    cells = [(" ", "")] * width
    for span in spans:
        first = min(width - 1, int(span.start / total * width))
        last = max(first + 1, min(width, round(span.end / total * width)))
        cells[first:last] = [MARKS[span.kind]] * (last - first)
    return Text.assemble(*cells)


def draw(output: Output, trace: dict[str, Any]) -> None:
    """Print the waterfall as wide as the terminal is."""
    rows = rows_of(trace)
    total = max((row.end for row in rows), default=0.0) or 1.0
    width = output.out.width
    names = [shown(f"{'  ' * row.level}{row.name}", lines=False) for row in rows]
    longest = min(max(len(name) for name in names), max(14, width // 4))
    words = max(len(row.state) for row in rows)
    room = width - longest - words - 2 * TIME - 4
    for row, name in zip(rows, names, strict=True):
        line = Text.assemble(
            (name if len(name) <= longest else f"{name[: longest - 1]}…").ljust(longest),
            " ",
            (row.state.ljust(words), state_style(row.state)),
            f" {'+' + lasted(row.start):>{TIME}} {lasted(row.end - row.start):>{TIME}} ",
        )
        output.text(line + bar(row.spans, total, room) if room >= LEAST_BAR else line)
    output.note(LEGEND if room >= LEAST_BAR else "a wider terminal shows the bars")
    if trace["more"]:
        output.note("some jobs are omitted: at most 300 on six levels are shown")
