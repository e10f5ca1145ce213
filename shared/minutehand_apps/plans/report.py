"""The report of a plan, which is made from the stored stages each time that someone reads it."""

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi.responses import HTMLResponse

from minutehand.ai import SAMPLE
from minutehand.web import document
from minutehand_apps.plans.graph import Stage, select_stages
from minutehand_apps.plans.models import (
    Missing,
    Outlined,
    Plan,
    Report,
    ReportChapter,
    ReportedPlan,
)
from minutehand_apps.plans.shapes import Block

SUMMARY = "executive_summary"
_STYLE = """
p,blockquote{white-space:pre-wrap}.meta{color:var(--soft)}div{overflow-x:auto}
table{border-collapse:collapse;width:100%}h2{margin:2rem 0 .4rem}
td,th{text-align:start;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid var(--line)}
th{white-space:nowrap}td.num,th.num{text-align:end;font-variant-numeric:tabular-nums}
blockquote{margin:0;padding-inline-start:1rem;border-inline-start:3px solid var(--line);
color:var(--soft)}
"""


def notice(plan: ReportedPlan) -> str:
    """Return a sentence that names the author of the report, or marks the report as a sample."""
    if any(stage.model for stage in plan.stages):
        return "Written by a language model. Days and costs are sums of its figures."
    if plan.is_sample:
        return f"{SAMPLE.capitalize()}, so this plan does not answer the request."
    return ""


def missing(plan: ReportedPlan) -> list[Missing]:
    """Return the chapters that are not in the report, each with the reason."""
    stages = {stage.name: stage for stage in plan.stages}
    why = {
        "cancelled": "The plan was cancelled before this chapter.",
        "failed": plan.error or "A chapter that it needs is missing.",
    }.get(plan.status, "This chapter has not been written yet.")
    return [
        Missing(stage=stage.name, title=stage.title, reason=reason or why)
        for stage in select_stages(plan.speed_vs_detail)
        if (reason := stages[stage.name].reason if stage.name in stages else None)
        or stage.name not in stages
    ]


def _reading_order(plan: ReportedPlan) -> list[Stage]:
    """Return the stages in the order of reading, with the summary first."""
    return sorted(select_stages(plan.speed_vs_detail), key=lambda stage: stage.name != SUMMARY)


def outline(plan: ReportedPlan) -> list[Outlined]:
    """Return all chapters with their states.

    A chapter runs when all stages that it needs are done.
    """
    stages = {stage.name: stage for stage in plan.stages}
    done = {name for name, stage in stages.items() if stage.result is not None}
    is_live = plan.status in {"pending", "running", "cancelling"}

    def status(stage: Stage) -> Any:
        if stage.name in done:
            return "completed"
        if is_live:
            is_running = plan.status != "pending" and set(stage.needs) <= done
            return "running" if is_running else "waiting"
        return stages[stage.name].status if stage.name in stages else "missing"

    return [
        Outlined(
            stage=stage.name,
            title=stage.title,
            status=status(stage),
            reason=stages[stage.name].reason if stage.name in stages else None,
        )
        for stage in _reading_order(plan)
    ]


def chapters(plan: ReportedPlan) -> Iterator[tuple[Stage, list[Block]]]:
    """Return the completed chapters, with the summary first."""
    results = {stage.name: stage.result for stage in plan.stages if stage.result is not None}
    for stage in _reading_order(plan):
        if stage.name not in results:
            continue
        yield stage, stage.shape.model_validate(results[stage.name]).blocks(results)


def json_report(plan: Plan) -> Report:
    """Return the report as a JSON object."""
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
    """Return the report as a Markdown text."""
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
    for index, row in enumerate(block):
        if isinstance(row, str):
            yield f"- {row}"
            continue
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
        if index == 0:
            yield "|---" * len(row) + "|"


def html(plan: ReportedPlan) -> HTMLResponse:
    """Return the report as an HTML page without other files.

    All texts of the report are escaped.
    """
    parts = [
        f"<blockquote>{escape(plan.prompt)}</blockquote>",
        f'<p class="meta">Status: {plan.status}. {escape(notice(plan))}</p>',
    ]
    if gaps := missing(plan):
        reasons = dict.fromkeys(gap.reason for gap in gaps)
        titles = {why: ", ".join(gap.title for gap in gaps if gap.reason == why) for why in reasons}
        items = "".join(
            f"<li>{escape(names)}: {escape(reason)}</li>" for reason, names in titles.items()
        )
        parts.append(f"<h2>This report is partial</h2><ul>{items}</ul>")
    for stage, blocks in chapters(plan):
        parts.append(f'<h2 id="{stage.name}">{escape(stage.title)}</h2>')
        parts += map(_element, blocks)
    return document(plan.title, "\n".join(parts), style=_STYLE)


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\N{MINUS SIGN}?[\d.,]+", text))


def _element(block: Block) -> str:
    if isinstance(block, str):
        return f"<p>{escape(block)}</p>"
    rows = []
    for index, row in enumerate(block):
        if isinstance(row, str):
            rows.append(f"<li>{escape(row)}</li>")
            continue
        cell = "td" if index else "th"
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
