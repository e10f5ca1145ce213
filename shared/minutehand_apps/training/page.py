"""A procedure as an HTML page. Texts of models and of people are escaped."""

from collections.abc import Iterator
from html import escape

from fastapi.responses import HTMLResponse

from minutehand.web import document
from minutehand_apps.training.models import Procedure, StoredProcedure

_STYLE = """
body{max-width:46rem;font-size:17px;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:1.6rem 0 .3rem}
.soft{color:var(--soft);font-size:.9rem}ul{margin:0;padding-inline-start:1.2rem}
ol{list-style:none;margin:1.6rem 0 0;padding:0;counter-reset:step}
li.step{counter-increment:step;border-top:1px solid var(--line);padding:1.2rem 0;display:grid;
grid-template-columns:2.2rem 1fr;gap:.2rem .6rem}
li.step::before{content:counter(step);grid-row:1/4;font-weight:700;color:var(--main);font-size:1.3rem}
li.step>*{grid-column:2;margin:0}h3{font-size:1.05rem}
video{width:100%;max-height:60vh;border-radius:8px;background:#000;margin-top:.5rem}
@media print{video{display:none}}
"""


def render(stored: StoredProcedure, video: str | None) -> HTMLResponse:
    """Build the page. `video` is the URL from which a browser can play the recording."""
    procedure = stored.procedure
    assert procedure is not None
    body = (
        f'<p>{escape(procedure.purpose)}</p><p class="soft">Written by a language model'
        f" from the transcript of a video.</p>{_listed('You need', procedure.materials)}"
        f"{_listed('Take care', procedure.warnings)}<ol>{''.join(_steps(procedure, video))}</ol>"
    )
    return document(procedure.title, body, style=_STYLE, media=video)


def _listed(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _steps(procedure: Procedure, video: str | None) -> Iterator[str]:
    ends = [*(step.at_seconds for step in procedure.steps[1:]), None]
    for step, end in zip(procedure.steps, ends, strict=True):
        # the player shows the frame at this time, and stops at the start of the next step
        to = f",{end:.1f}" if end is not None and end > step.at_seconds else ""
        address = f"{video}#t={step.at_seconds:.1f}{to}"
        picture = (
            f'<video controls preload="metadata" playsinline src="{escape(address)}"></video>'
            if video
            else ""
        )
        detail = f'<p class="soft">{escape(step.detail)}</p>' if step.detail else ""
        yield f'<li class="step"><h3>{escape(step.title)}</h3>{detail}{picture}</li>'
