"""Sample replies for use without a language model. The answers are marked as samples.

A few keywords in a request decide how it is handled. The rest of the request is ignored.
"""

import re

from minutehand.ai import SAMPLE
from minutehand_apps.chat.models import Decision, Figure, Findings, Page, Section

QUESTION = "What color scheme would you like for the dashboard?"
COLOURS = {
    "blue": "#1d4ed8",
    "green": "#15803d",
    "red": "#b91c1c",
    "purple": "#7e22ce",
    "orange": "#c2410c",
    "gray": "#475569",
}
_GREETINGS = frozenset({"hello", "hi", "hey", "thanks"})
_RESEARCH = frozenset({"research", "analyze", "investigate", "compare"})
_BUILD = frozenset({"build", "create", "design"})
_PAGES = frozenset({"dashboard", "visualization", "timeline", "page", "chart"})


def decide(text: str) -> Decision:
    """Decide by keywords how to handle a request, and which kind of work it is."""
    words = set(re.findall("[a-z]+", text.lower()))
    if not words & (_RESEARCH | _BUILD):
        tier = "instant" if words & _GREETINGS else "standard"
        return Decision.model_validate(
            {"tier": tier, "reply": f"{SAMPLE.capitalize()}, so there is no answer."}
        )
    is_page = bool(words & _PAGES)
    return Decision(
        tier="async",
        type="research" if words & _RESEARCH else "build",
        title="Research" if words & _RESEARCH else "Build",
        page=is_page,
        question=QUESTION if is_page else "",
        options=["Blue and white", "Green and white", "Gray"] if is_page else [],
    )


def research() -> Findings:
    """Return a placeholder for points about a topic."""
    return Findings(points=["A point would be here."])


def write() -> str:
    """Return a placeholder for a result that is a text."""
    return "The text of the result would be here."


def page(answer: str | None) -> Page:
    """Return the sample page, with the colours that the user's answer names."""
    words = (answer or "").lower()
    return Page(
        title="Sample dashboard",
        summary="Figures and steps would be here.",
        sections=[
            Section(title="Figures", figures=[Figure(label=x, value=1) for x in ("A", "B", "C")]),
            Section(title="Timeline", steps=["First", "Second", "Third"]),
        ],
        colours=[code for name, code in COLOURS.items() if name in words][:2],
    )
