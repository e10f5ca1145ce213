"""The answers of a job as an HTML page. Texts of people and of providers are escaped."""

from html import escape

from fastapi.responses import HTMLResponse

from minutehand.web import document
from minutehand_apps.beacon.models import SharedJob

_STYLE = """
.soft{color:var(--soft)}div{overflow-x:auto}table{border-collapse:collapse;width:100%}
td,th{text-align:start;vertical-align:top;padding:.5rem .6rem;border-bottom:1px solid var(--line);
min-width:12rem;overflow-wrap:anywhere}
@media(max-width:40rem){td,th{display:block}tr:first-child{display:none}
td::before{content:attr(title);display:block;color:var(--soft)}}
"""


def render(job: SharedJob) -> HTMLResponse:
    """Build the page, with a row per question and a column per region that answered."""
    columns = [
        (escape(one.region), {each.question_id: each.response for each in one.output.responses})
        for one in job.executions
    ]
    head = "".join(
        f"<th>{escape(one.region)}<br><small class=soft>{escape(f'{one.provider}, {one.model}')}"
        "</small></th>"
        for one in job.executions
    )
    rows = [
        f"<tr><th>{escape(question.question)}</th>"
        + "".join(
            f'<td title="{region}">{escape(answers[question.question_id])}</td>'
            for region, answers in columns
        )
        + "</tr>"
        for question in job.spec.asked_questions
    ]
    intro = f"{job.spec.jobspec_id}, version {job.spec.version}."
    return document(
        job.spec.benchmark.name,
        f'<p class="soft">{escape(intro)}</p>'
        f"<div><table><tr><th>Question</th>{head}</tr>{''.join(rows)}</table></div>",
        style=_STYLE,
    )
