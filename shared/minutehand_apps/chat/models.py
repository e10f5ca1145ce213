"""What is decided about a message, and what work brings: the shapes that a model fills.

A member that a model adds is dropped; what it leaves out or cuts wrong is asked for once more.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Line = Annotated[str, Field(min_length=1, max_length=300)]
Text = Annotated[str, Field(min_length=1, max_length=20_000)]


class Shape(BaseModel):
    """A shape that drops what it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ChatPayload(Shape):
    """Payload of `chat_message`: what is said stays in the chat's own tables."""

    message_id: UUID
    ask_seconds: int | None = None


class Said(Shape):
    """An earlier message of the session."""

    type: Literal["message", "reply", "question", "answer", "info"]
    content: str


class Progress(Shape):
    """How far work came before this attempt."""

    percentage: float
    stage: str | None


class Loaded(Shape):
    """What a leased job works on; `text` is None when its session is gone."""

    text: str | None
    progress: Progress | None
    history: list[Said]


class Decision(Shape):
    """What a message asks for."""

    #: An answer in plain words is one.
    tier: Literal["instant", "standard", "async"] = "standard"
    reply: str = Field(default="", max_length=20_000, description="The answer, unless async.")
    type: Literal["research", "build", "write"] = "write"
    title: str = Field(default="", max_length=200, description="Of the work, in a line.")
    page: bool = Field(default=False, description="Whether the result is a page to look at.")
    question: str = Field(
        default="", max_length=300, description="What to ask first, if the result depends on it."
    )
    options: list[Line] = Field(default_factory=list, max_length=6)


class Findings(Shape):
    """What research brought, from what the model knows."""

    points: Annotated[list[Line], Field(min_length=1, max_length=20)]


class Answer(Shape):
    """A result in words."""

    text: Text


class Figure(Shape):
    """A number with its name."""

    label: Line
    value: float
    unit: Annotated[str, Field(max_length=40)] = Field("", description="As %, EUR or years.")


class Section(Shape):
    """A part of a page."""

    title: Line
    text: Annotated[str, Field(max_length=4000)] = ""
    figures: list[Figure] = Field(default_factory=list, max_length=40)
    steps: list[Line] = Field(default_factory=list, max_length=40, description="In their order.")


def _plain_colours(given: Any) -> Any:
    """What can be read as #rrggbb, #rgb included; a page has its own colours for the rest."""
    if not isinstance(given, list):
        return given
    long = (re.sub(r"^#(\w)(\w)(\w)$", r"#\1\1\2\2\3\3", str(each).strip()) for each in given)
    return [each for each in long if re.fullmatch("#[0-9a-fA-F]{6}", each)][:3]


class Page(Shape):
    """A page: a dashboard, a timeline, a report."""

    title: Line
    summary: Text
    sections: Annotated[list[Section], Field(min_length=1, max_length=12)]
    colours: Annotated[list[str], BeforeValidator(_plain_colours)] = Field(
        default_factory=list, max_length=3, description="As #rrggbb, the main one first."
    )


#: What a job returns, as its result.
Result = dict[str, Any]
