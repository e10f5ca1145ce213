"""The report: built from the stages' results, at any time, by plain functions.

There is nothing to wait for and nothing that can fail, so there always is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from minutehand_apps.plans.models import Missing, Report, ReportChapter, StoredPlan
from minutehand_apps.plans.planning import blocks as b
from minutehand_apps.plans.planning.graph import position_of, stages_of, title_of

MEDIA: Final = {
    "json": "application/json",
    "md": "text/markdown",
    "svg": "image/svg+xml",
    "html": "text/html",
}
OFFLINE_NOTICE: Final = (
    "Computed from the figures of the prompt and a bundled work-breakdown pattern; the texts are"
    " templates. No language model was asked."
)
MODEL_NOTICE: Final = (
    "All figures are computed from the prompt and a bundled work-breakdown pattern; some texts were"
    " written by {}, and hold no figure that was not computed."
)
SPEEDS: Final = {
    "fast_but_skip_details": "fast, without details",
    "balanced_speed_and_detail": "balanced",
    "all_details_but_slow": "all details",
}
#: The report begins with these; the rest follows in the order of the graph.
_FIRST: Final = ("executive_summary",)
_STYLE: Final = """
:root{color-scheme:light dark;--ink:#1c2733;--soft:#5a6a7a;--line:#d5dce3;
--back:#fff;--card:#f5f7f9;--good:#2c6e49;--doubtful:#8a5a00;--bad:#a4282a}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#a3b1bf;--line:#3a4653;--back:#151b21;
--card:#1d252d;--good:#7fd0a0;--doubtful:#f0c060;--bad:#ff9a94}}
*{box-sizing:border-box}body{margin:0 auto;max-width:68rem;padding:1.5rem;background:var(--back);
color:var(--ink);font:16px/1.5 system-ui,sans-serif}h1{font-size:1.6rem;line-height:1.25}
h2{margin-top:2.5rem;border-bottom:1px solid var(--line);padding-bottom:.25rem;font-size:1.25rem}
h3{font-size:1rem;margin-bottom:.25rem}.meta,figcaption{color:var(--soft);font-size:.875rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.875rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .6rem;border-bottom:1px solid var(--line)}
th{background:var(--card)}figure{margin:1rem 0;overflow-x:auto}
svg{width:100%;min-width:40rem;height:auto}
.verdict{padding:.6rem .9rem;border-left:4px solid;background:var(--card);font-weight:600}
.good{border-color:var(--good)}.doubtful{border-color:var(--doubtful)}.bad{border-color:var(--bad)}
nav ol{columns:2;padding-left:1.4rem}a{color:inherit}blockquote{margin:0;white-space:pre-wrap;
background:var(--card);padding:.6rem .9rem}@media(max-width:40rem){nav ol{columns:1}}
@media print{nav{display:none}h2{break-after:avoid}}
"""


def compose(plan: StoredPlan) -> Report:
    """The report of a plan in its present state; read with its results."""
    stages = {stage.name: stage for stage in plan.stages}
    chapters = []
    for name in _order(plan.speed_vs_detail):
        stage = stages.get(name)
        if stage is None or stage.result is None:
            continue
        data = {key: value for key, value in stage.result.items() if key != "blocks"}
        made = ReportChapter(
            stage=name, title=title_of(name), model=stage.model, data=data,
            blocks=stage.result.get("blocks", []),
        )  # fmt: skip
        chapters.append(made)
    missing = list(missing_parts(plan))
    models = sorted({stage.model for stage in plan.stages if stage.model})
    return Report(
        plan_id=plan.id,
        prompt=plan.prompt,
        speed_vs_detail=plan.speed_vs_detail,
        status=plan.status,
        partial=bool(missing),
        missing=missing,
        notice=MODEL_NOTICE.format(", ".join(models)) if models else OFFLINE_NOTICE,
        created_at=plan.created_at,
        chapters=chapters,
    )


def files_of(stage: str, result: Mapping[str, Any]) -> dict[str, str]:
    """The files of a stage's result: its charts, what it found, and that in words."""
    found = {each["name"]: each["svg"] for each in result["blocks"] if each["kind"] == "chart"}
    place = f"{position_of(stage):02}-{stage.replace('_', '-')}"
    text = f"# {title_of(stage)}\n\n{b.to_markdown(result['blocks'])}"
    return found | {
        f"{place}.json": json.dumps(result, ensure_ascii=False, indent=2) + "\n",
        f"{place}.md": text.rstrip() + "\n",
    }


def report_files(plan: StoredPlan) -> dict[str, str]:
    """The present report in its three forms."""
    report = compose(plan)
    return {
        "report.html": html(report),
        "report.md": markdown(report),
        "report.json": report.model_dump_json(indent=2) + "\n",
    }


def described(name: str, content: str) -> dict[str, Any]:
    """A file without its content."""
    media_type = MEDIA[name.rpartition(".")[2]]
    return {"name": name, "media_type": media_type, "bytes": len(content.encode())}


def _order(speed: str) -> list[str]:
    names = [stage.name for stage in stages_of(speed) if stage.name != "report"]
    return sorted(names, key=lambda name: (name not in _FIRST, position_of(name)))


def missing_parts(plan: StoredPlan) -> Iterator[Missing]:
    """The chapters that are not there, each with the nearest reason."""
    found = {stage.name: stage for stage in plan.stages}
    done = {name for name, stage in found.items() if stage.status == "completed"}
    declared = stages_of(plan.speed_vs_detail)
    for stage in declared:
        if stage.name in done or stage.name == "report":
            continue
        stored = found.get(stage.name)
        waits = [title_of(name) for name in stage.needs if name not in done]
        if stored is not None and stored.status == "failed":
            code, reason = stored.code or "failed", stored.reason or "The stage failed."
        elif plan.status == "cancelled":
            code, reason = "cancelled", "The plan was cancelled before this was made."
        elif plan.status == "failed" and plan.error is not None and not waits:
            code, reason = plan.error.code, plan.error.reason
        elif plan.status == "failed":
            code, reason = "needs_stage", f"It needs what is missing too: {', '.join(waits)}."
        elif stored is not None:
            code, reason = "running", "It is being made."
        else:
            code, reason = "pending", "It has not begun yet."
        yield Missing(stage=stage.name, title=stage.title, code=code, reason=reason)


def _status_line(report: Report) -> str:
    at = report.created_at
    return (
        f"Status: {report.status}. Detail: {SPEEDS[report.speed_vs_detail]}."
        f" Created on {at.day} {at:%B} {at.year}."
    )


def markdown(report: Report) -> str:
    """The report as Markdown; nothing that others wrote becomes markup."""
    lines = ["# Project plan", "", *_quoted(report.prompt), "", _status_line(report), ""]
    lines += [f"*{b.plain(report.notice)}*", ""]
    if report.partial:
        lines += ["## This report is partial", "", "What is missing, and why:", ""]
        lines += [f"- **{m.title}**: {b.plain(m.reason)}" for m in report.missing]
        lines.append("")
    for chapter in report.chapters:
        lines += [f"## {chapter.title}", "", b.to_markdown(chapter.blocks)]
    return "\n".join(lines).rstrip() + "\n"


def html(report: Report) -> str:
    """The report as one page that needs nothing else: no script, no font, no address."""
    links = "".join(
        f'<li><a href="#{chapter.stage}">{escape(chapter.title)}</a></li>'
        for chapter in report.chapters
    )
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>Project plan</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>Project plan</h1><blockquote>{escape(report.prompt)}</blockquote>",
        f'<p class="meta">{escape(_status_line(report))} {escape(report.notice)}</p>',
    ]
    if report.partial:
        items = "".join(
            f"<li><strong>{escape(m.title)}</strong>: {escape(m.reason)}</li>"
            for m in report.missing
        )
        parts.append(
            '<section id="missing"><p class="verdict doubtful">This report is partial. What is'
            f" missing, and why:</p><ul>{items}</ul></section>"
        )
    if links:
        parts.append(f'<nav aria-label="Chapters"><ol>{links}</ol></nav>')
    parts += [
        f'<section id="{chapter.stage}"><h2>{escape(chapter.title)}</h2>'
        f"{b.to_html(chapter.blocks)}</section>"
        for chapter in report.chapters
    ]
    parts.append("</main></body></html>")
    return "\n".join(parts)


def _quoted(text: str) -> list[str]:
    return [f"> {b.plain(line)}" for line in text.splitlines() if line.strip()]
