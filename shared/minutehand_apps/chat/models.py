"""Models of decisions and results, which a language model writes.

Unknown fields are dropped. If fields are missing or invalid, the model is asked once more.
"""

import re
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Line = Annotated[str, Field(min_length=1, max_length=300)]
#: Maximum characters of a reply or a result. One answer of a model is shorter.
MAX_TEXT = 200_000
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]


class Shape(BaseModel):
    """Base class of models that ignore unknown fields."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ChatPayload(Shape):
    """Payload of a `chat_message` job. The text of the message is in the tables of the chat."""

    message_id: UUID
    ask_seconds: int | None = None


class Message(Shape):
    """An earlier message of the chat session."""

    type: Literal["message", "reply", "question", "answer", "info"]
    content: str


class Progress(Shape):
    """Progress that earlier attempts of the job have reported."""

    percentage: float
    stage: str | None


class Loaded(Shape):
    """Rows that a leased job reads. `text` is None if the session was deleted."""

    text: str | None
    progress: Progress | None
    #: The part of the reply that an earlier attempt has already written.
    said: str | None
    history: list[Message]


class Decision(Shape):
    """Decision of the model about the handling of a message."""

    #: The default applies if the model answers without JSON.
    tier: Literal["instant", "standard", "async"] = "standard"
    reply: str = Field(default="", max_length=MAX_TEXT, description="The answer, empty for async.")
    type: Literal["research", "build", "write"] = "write"
    title: str = Field(default="", max_length=200, description="Title of the work.")
    page: bool = Field(default=False, description="Whether the result is a page.")
    question: str = Field(
        default="",
        max_length=300,
        description="Question whose answer changes the result, or empty.",
    )
    options: list[Line] = Field(default_factory=list, max_length=6)


class Findings(Shape):
    """Points about a topic from the model's own knowledge."""

    points: Annotated[list[Line], Field(min_length=1, max_length=20)]


class Answer(Shape):
    """The result of a work item as text."""

    text: Text


class Figure(Shape):
    """A number with its name, which a page shows as a bar."""

    label: Line
    value: float
    unit: Annotated[str, Field(max_length=40)] = Field(
        "", description="For example %, EUR or years."
    )


class Section(Shape):
    """A section of a page."""

    title: Line
    text: Annotated[str, Field(max_length=4000)] = ""
    figures: list[Figure] = Field(default_factory=list, max_length=40)
    steps: list[Line] = Field(
        default_factory=list, max_length=40, description="Ordered steps or dates."
    )


def _plain_colours(value: Any) -> Any:
    """Keep only colours in the form #rrggbb. A page has defaults for the other colours."""
    if not isinstance(value, list):
        return value
    colours = (
        re.sub(r"^#(\w)(\w)(\w)$", r"#\1\1\2\2\3\3", str(colour).strip()) for colour in value
    )
    return [colour for colour in colours if re.fullmatch("#[0-9a-fA-F]{6}", colour)][:3]


class Page(Shape):
    """A page with the result of a work item: a dashboard, a timeline or a report."""

    title: Line
    summary: Text
    sections: Annotated[list[Section], Field(min_length=1, max_length=12)]
    colours: Annotated[list[str], BeforeValidator(_plain_colours)] = Field(
        default_factory=list, max_length=3, description="Colours as #rrggbb, the main colour first."
    )


#: Result of a `chat_message` job.
Result = dict[str, Any]
