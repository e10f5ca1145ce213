"""The charts of a plan as SVG: a Gantt chart and the load of each week. Plain functions.

They are self-contained: no script, no font, no URL; each has a title and a description in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from html import escape

from minutehand_apps.plans.planning.breakdown import Package
from minutehand_apps.plans.planning.numbers import is_working_day
from minutehand_apps.plans.planning.schedule import Schedule, Week

_LEFT, _ROW, _TOP, _WIDTH = 290, 24, 40, 960
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#1c2733}.d{fill:#eef1f4}.t{fill:#4a7db5}"
    ".c{fill:#b5543c}.m{stroke:#7a1f1f;stroke-dasharray:4 3}.g{stroke:#cfd6dd}.o{fill:#e3b23c}"
    "@media(prefers-color-scheme:dark){text{fill:#e6ebf0}.d{fill:#26303a}.g{stroke:#46525e}"
    ".m{stroke:#ff9a8a}}</style>"
)


def gantt(packages: Sequence[Package], made: Schedule) -> str:
    """The Gantt chart: a bar for each package, the critical ones in another colour."""
    last = max([made.last_day, *([made.deadline] if made.deadline else [])])
    if made.deadline and made.deadline - made.last_day > made.last_day - made.first_day:
        last = made.last_day  # a far deadline would leave no room for the bars
    days = (last - made.first_day).days + 1
    step = (_WIDTH - _LEFT - 20) / days
    height = _TOP + _ROW * len(packages) + 30
    words = (
        f"{len(packages)} work packages from {made.first_day.isoformat()} to"
        f" {made.last_day.isoformat()}; critical ones are red."
    )
    parts = [_head("Gantt chart", words, height)]
    parts += _weekends(made.first_day, days, step, height)
    parts += _scale(made.first_day, days, step, height)
    by_id = {task.id: task for task in made.tasks}
    for row, package in enumerate(packages):
        task = by_id[package.id]
        y = _TOP + row * _ROW
        left = _LEFT + (task.start - made.first_day).days * step
        width = max(3.0, ((task.end - task.start).days + 1) * step - 2)
        name = f"{package.number} {package.title}"
        label = name if len(name) <= 44 else name[:43] + "…"
        dates = f"{task.start.isoformat()} to {task.end.isoformat()}"
        parts.append(f'<text x="4" y="{y + 16}">{escape(label)}</text>')
        parts.append(
            f'<rect class="{"c" if task.critical else "t"}" x="{left:.1f}" y="{y + 5}"'
            f' width="{width:.1f}" height="14" rx="2"><title>{escape(name)}: {dates}</title></rect>'
        )
    if made.deadline and made.first_day <= made.deadline <= last:
        x = _LEFT + ((made.deadline - made.first_day).days + 1) * step
        parts.append(
            f'<line class="m" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{height - 8}"/>'
        )
        parts.append(
            f'<text x="{min(x, _WIDTH - 4):.1f}" y="{height - 2}" text-anchor="end">deadline</text>'
        )
    return "".join([*parts, "</svg>"])


def load(weeks: Sequence[Week]) -> str:
    """The load: hours of work in each week, against what the people can do."""
    height = 220
    most = max([1.0, *(max(week.hours, week.capacity) for week in weeks)])
    step = (_WIDTH - 80) / max(1, len(weeks))
    words = f"Hours of work in {len(weeks)} weeks; at most {most:g} hours."
    parts = [_head("Resource load", words, height)]
    for place, week in enumerate(weeks):
        hours, capacity = week.hours, week.capacity
        x, base = 60 + place * step, height - 40
        tall, can = hours / most * 150, capacity / most * 150
        title = f"Week of {week.week_of}: {hours:g} h of {capacity:g} h"
        parts.append(
            f'<rect class="{"c" if hours > capacity else "t"}" x="{x:.1f}" y="{base - tall:.1f}"'
            f' width="{max(2.0, step - 4):.1f}" height="{tall:.1f}"><title>{title}</title></rect>'
        )
        parts.append(
            f'<line class="m" x1="{x:.1f}" x2="{x + max(2.0, step - 4):.1f}"'
            f' y1="{base - can:.1f}" y2="{base - can:.1f}"/>'
        )
        if place % max(1, -(-len(weeks) // 12)) == 0:
            parts.append(f'<text x="{x:.1f}" y="{height - 22}">{week.week_of:%m-%d}</text>')
    parts.append(f'<text x="4" y="30">{most:g} h</text><text x="4" y="{height - 40}">0 h</text>')
    return "".join([*parts, "</svg>"])


def _head(title: str, words: str, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"'
        f' aria-label="{title}: {escape(words)}"><title>{title}</title><desc>{escape(words)}</desc>'
        f"{_STYLE}"
    )


def _weekends(first: date, days: int, step: float, height: float) -> list[str]:
    if days > 400:
        return []
    return [
        f'<rect class="d" x="{_LEFT + n * step:.1f}" y="{_TOP - 6}" width="{step:.1f}"'
        f' height="{height - _TOP - 6}"/>'
        for n in range(days)
        if not is_working_day(first + timedelta(days=n))
    ]


def _scale(first: date, days: int, step: float, height: float) -> list[str]:
    """A line and a date every so many days, at most ten."""
    every = next(n for n in (1, 2, 7, 14, 28, 91, 182, 364, 3640) if days / n <= 10)
    lines = []
    for n in range(0, days, every):
        x = _LEFT + n * step
        at = first + timedelta(days=n)
        lines.append(
            f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 6}" y2="{height - 24}"/>'
        )
        lines.append(f'<text x="{x:.1f}" y="{_TOP - 14}">{at.day} {at:%b} {at.year}</text>')
    return lines
