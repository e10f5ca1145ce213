"""What is said in a chat, what it becomes, and what jobs carry.

The rules for a message are in SQL; here are its shape, its defaults and its bounds.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Kind = Literal["research", "summarise", "compare", "draft", "build"]
Mode = Literal["auto", "reply", "work"]
JobStatus = Literal["pending", "processing", "waiting", "completed", "failed", "cancelled"]
#: Work items that one message may become.
MOST_ITEMS = 3


class Exact(BaseModel):
    """A model that takes nothing it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Text(BaseModel):
    """A text to work on, as it was taken: what is one is not asked a second time."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: str
    text: str


class Document(Exact):
    """A text that comes with a message."""

    title: Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
    text: Annotated[str, Field(min_length=1, max_length=20_000, pattern=r"\S")]


class ChatPayload(BaseModel):
    """Payload of `chat_reply` and `chat_work`: what is said stays in the chat's own tables."""

    conversation_id: UUID
    message_id: UUID


class Request(BaseModel):
    """How a message wants to be taken."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    mode: Mode = "auto"
    ask: bool = True
    ask_seconds: int = 3600
    seed: int = 0


class Asked(BaseModel):
    """The message a job is for."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: UUID
    seq: int
    text: str
    request: Request


class Item(BaseModel):
    """A piece of background work."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    kind: Kind
    title: str
    instruction: str


class Finding(BaseModel):
    """What one part of work came to."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: str
    text: str


class Found(BaseModel):
    """What the work before came to, for the work that it feeds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: str
    text: str
    data: dict[str, Any] | None = None

    @property
    def parts(self) -> list[Finding]:
        """Its parts."""
        return [Finding.model_validate(each) for each in (self.data or {}).get("parts", [])]

    @property
    def sources(self) -> list[str]:
        """What it cites."""
        return list((self.data or {}).get("sources", []))


class PastMessage(BaseModel):
    """An earlier message."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    author: Literal["user", "assistant"]
    kind: str
    text: str


class Loaded(BaseModel):
    """What a leased job works on; `message` is None when its conversation is gone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    message: Asked | None
    written: UUID | None = None
    item: Item | None = None
    workspace_id: str | None = None
    #: How far the job has come in an earlier lease, 0 to 100.
    percentage: float = 0
    found: list[Found] = Field(default_factory=list)
    documents: list[Text] = Field(default_factory=list)
    history: list[PastMessage] = Field(default_factory=list)


class Written(BaseModel):
    """What a model wrote, and what that took."""

    text: str
    model: str | None = None
    offline: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    data: dict[str, Any] | None = None


class Posted(BaseModel):
    """The message a job left; None where the queue takes no more work."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    message_id: UUID | None
    work_items: list[UUID] = Field(default_factory=list)


class Outcome(BaseModel):
    """What became of a message of a session."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    status: JobStatus | None
    progress: dict[str, Any] | None = None
    error_message: str | None = None
    message: dict[str, Any] | None = None
    work: list[dict[str, Any]] = Field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.message is not None or self.status in {"failed", "cancelled", None}


# What people get ---------------------------------------------------------------------------------


class SessionLine(BaseModel):
    """A session in a list, as the view `async_session_state` has it."""

    model_config = ConfigDict(extra="ignore")

    session_id: str = Field(description="Its key; its topic is session:<session_id>.")
    conversation_id: UUID
    title: str | None
    live: int
    waiting: int
    done: int
    failed: int
    cancelled: int
    answer_wanted: bool
    replying: bool
    messages: int
    created_by: UUID | None
    created_at: AwareDatetime
    last_message_at: AwareDatetime
    last_activity_at: AwareDatetime


class SessionPage(BaseModel):
    """Sessions, the one written in last first."""

    sessions: list[SessionLine]
    next: str | None = Field(description="Pass as `after` for more; null at the end.")
