"""The report: made of what the stages stored, whenever it is read, so that there always is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any, Final

from minutehand.ai import SAMPLE
from minutehand_apps.plans.graph import Stage, stages_of
from minutehand_apps.plans.models import (
    Missing,
    Outlined,
    Plan,
    Report,
    ReportChapter,
    ReportedPlan,
)
from minutehand_apps.plans.shapes import Block

SUMMARY: Final = "executive_summary"
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#5a6a7a;--line:#d5dce3;--back:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#a3b1bf;--line:#3a4653;--back:#151b21}}
body{margin:0 auto;max-width:60rem;padding:1.5rem;background:var(--back);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}p,blockquote{white-space:pre-wrap}
.meta{color:var(--soft)}div{overflow-x:auto}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line)}
th{white-space:nowrap}td.num,th.num{text-align:right;font-variant-numeric:tabular-nums}
h1{font-size:1.7rem;line-height:1.25}h2{margin:2rem 0 .4rem;font-size:1.2rem}
blockquote{margin:0;padding-left:1rem;border-left:3px solid var(--line);color:var(--soft)}
"""


def notice(plan: ReportedPlan) -> str:
    """Who wrote it."""
    models = sorted({stage.model for stage in plan.stages if stage.model})
    if models:
        return f"Written by {', '.join(models)}; days and costs are added up from its figures."
    asked = any(stage.status == "failed" for stage in plan.stages)
    return "" if asked or not plan.stages else f"This is a {SAMPLE}. It is not about the prompt."


def missing(plan: ReportedPlan) -> list[Missing]:
    """The chapters that are not there, each with the reason."""
    found = {stage.name: stage for stage in plan.stages}
    why = {
        "cancelled": "The plan was cancelled before.",
        "failed": plan.error or "What it needs is missing.",
    }.get(plan.status, "It has not been made yet.")
    return [
        Missing(stage=stage.name, title=stage.title, reason=reason or why)
        for stage in stages_of(plan.speed_vs_detail)
        if (reason := found[stage.name].reason if stage.name in found else None)
        or stage.name not in found
    ]


def _in_order(plan: ReportedPlan) -> list[Stage]:
    """Its stages as they are read, the summary first."""
    return sorted(stages_of(plan.speed_vs_detail), key=lambda stage: stage.name != SUMMARY)


def outline(plan: ReportedPlan) -> list[Outlined]:
    """Every chapter and how it is; one runs as soon as those that it needs are there."""
    found = {stage.name: stage for stage in plan.stages}
    done = {name for name, stage in found.items() if stage.result is not None}
    lives = plan.status in {"pending", "running", "cancelling"}

    def status(stage: Stage) -> Any:
        if stage.name in done:
            return "completed"
        if lives:
            runs = plan.status != "pending" and set(stage.needs) <= done
            return "running" if runs else "waiting"
        return found[stage.name].status if stage.name in found else "missing"

    return [
        Outlined(
            stage=stage.name,
            title=stage.title,
            status=status(stage),
            reason=found[stage.name].reason if stage.name in found else None,
        )
        for stage in _in_order(plan)
    ]


def chapters(plan: ReportedPlan) -> Iterator[tuple[Stage, list[Block]]]:
    """The chapters that are there, the summary first."""
    results = {stage.name: stage.result for stage in plan.stages if stage.result is not None}
    for stage in _in_order(plan):
        if stage.name not in results:
            continue
        yield stage, stage.shape.model_validate(results[stage.name]).blocks(results)


def report_of(plan: Plan) -> Report:
    """The report for programs."""
    gaps = missing(plan)
    return Report(
        plan_id=plan.plan_id,
        title=plan.title,
        status=plan.status,
        partial=bool(gaps),
        missing=gaps,
        notice=notice(plan),
        outline=outline(plan),
        chapters=[
            ReportChapter(stage=stage.name, title=stage.title, blocks=blocks)
            for stage, blocks in chapters(plan)
        ],
    )


def markdown(plan: Plan) -> str:
    """The report as Markdown."""
    lines = [f"# {plan.title}", "", f"> {' '.join(plan.prompt.split())}", ""]
    lines += [f"Status: {plan.status}. {notice(plan)}".strip(), ""]
    if gaps := missing(plan):
        lines += ["## This report is partial", ""]
        lines += [f"- {each.title}: {each.reason}" for each in gaps] + [""]
    for stage, blocks in chapters(plan):
        lines += [f"## {stage.title}", ""]
        for block in blocks:
            lines += [*_lines(block), ""]
    return "\n".join(lines)


def _lines(block: Block) -> Iterator[str]:
    if isinstance(block, str):
        yield block
        return
    for place, row in enumerate(block):
        if isinstance(row, str):
            yield f"- {row}"
            continue
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
        if place == 0:
            yield "|---" * len(row) + "|"


def html(plan: ReportedPlan) -> str:
    """The report as one page that needs nothing else; nothing that others wrote is markup."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(plan.title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(plan.title)}</h1><blockquote>{escape(plan.prompt)}</blockquote>",
        f'<p class="meta">Status: {plan.status}. {escape(notice(plan))}</p>',
    ]
    if gaps := missing(plan):
        reasons = dict.fromkeys(each.reason for each in gaps)
        titles = {why: ", ".join(one.title for one in gaps if one.reason == why) for why in reasons}
        items = "".join(
            f"<li>{escape(named)}: {escape(reason)}</li>" for reason, named in titles.items()
        )
        parts.append(f"<h2>This report is partial</h2><ul>{items}</ul>")
    for stage, blocks in chapters(plan):
        parts.append(f'<h2 id="{stage.name}">{escape(stage.title)}</h2>')
        parts += map(_element, blocks)
    return "\n".join([*parts, "</body></html>"])


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?[\d.,]+", text))


def _element(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    rows = []
    for place, row in enumerate(block):
        if isinstance(row, str):
            rows.append(f"<li>{escape(row)}</li>")
            continue
        cell = "td" if place else "th"
        column = list(zip(*block[1:], strict=True)) or [()] * len(row)
        cells = "".join(
            f"<{cell}{' class=num' if column[at] and all(map(_is_number, column[at])) else ''}>"
            f"{escape(text)}</{cell}>"
            for at, text in enumerate(row)
        )
        rows.append(f"<tr>{cells}</tr>")
    if not rows:
        return ""
    if isinstance(block[0], str):
        return f"<ul>{''.join(rows)}</ul>"
    return f"<div><table>{''.join(rows)}</table></div>"
