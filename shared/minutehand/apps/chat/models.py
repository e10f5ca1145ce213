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


class Message(Exact):
    """What someone says."""

    text: Annotated[str, Field(min_length=1, max_length=8000, pattern=r"\S")]
    client_id: Annotated[str, Field(min_length=1, max_length=100, pattern=r"\S")] | None = Field(
        default=None, description="Your own id for it: sent again it finds the first, with 200."
    )
    documents: Annotated[list[Document], Field(max_length=5)] = Field(
        default_factory=list, description="Texts to work on; later messages may refer to them."
    )
    mode: Mode = Field(
        default="auto", description="`reply`: answer at once; `work`: in the background."
    )
    ask: bool = Field(default=True, description="Whether background work may ask back.")
    ask_seconds: int = Field(
        default=3600, ge=1, le=604_800, description="Then it continues without an answer."
    )
    seed: int = Field(default=0, ge=0, le=2_147_483_647)


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
    artefact: dict[str, Any] | None = Field(
        default=None, description="A page: {token, key, title, type, size_bytes}."
    )


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


class Attachment(BaseModel):
    """A text that came with a message, without its words."""

    title: str
    characters: int


class ShownMessage(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    seq: int = Field(description="1, 2, 3 … without gaps in its conversation.")
    author: Literal["user", "assistant"]
    kind: Literal["message", "answer", "reply", "plan", "result"]
    text: str
    documents: list[Attachment]
    request: Request | None
    data: dict[str, Any] | None
    model: str | None
    offline: bool
    input_tokens: int
    output_tokens: int
    cost_usd: float
    client_id: str | None
    job_id: UUID | None = Field(
        description="The job that answers it, that asked, or that wrote it, by kind."
    )
    created_by: UUID | None = Field(description="null for a guest who reads.")
    by_guest: bool = Field(description="Whether a guest session's holder sent it.")
    created_at: AwareDatetime


class MessagePage(BaseModel):
    """Messages in order."""

    messages: list[ShownMessage]
    before: int | None = Field(description="Pass as `before` for older ones; null at the first.")


class Sent(BaseModel):
    """A message that was taken, and the job that answers it."""

    message: ShownMessage
    job_id: UUID | None


class WorkItem(BaseModel):
    """Background work, as the view `async_work_items` has it."""

    model_config = ConfigDict(extra="ignore")

    work_item_id: UUID = Field(description="Its job's id.")
    message_id: UUID
    title: str
    kind: Kind
    status: JobStatus
    progress: dict[str, Any] | None
    question_name: str | None
    question: str | None
    question_options: list[str] | None
    question_default: str | None
    question_expires_at: AwareDatetime | None
    result_message_id: UUID | None
    error_message: str | None
    attempts: int | None
    max_attempts: int | None
    next_retry_at: AwareDatetime | None
    cancel_requested_at: AwareDatetime | None
    last_seq: int | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    updated_at: AwareDatetime
    completed_at: AwareDatetime | None


class Reply(BaseModel):
    """A reply that is not there yet, or that came to nothing."""

    model_config = ConfigDict(extra="ignore")

    job_id: UUID
    message_id: UUID
    status: JobStatus
    progress: dict[str, Any] | None = Field(
        description="While it is written: `stage` is `text:<n>`, `message` its text from there on."
    )
    error_message: str | None
    next_retry_at: AwareDatetime | None
    cancel_requested_at: AwareDatetime | None
    last_seq: int


class ConversationLine(BaseModel):
    """A conversation in a list, as the view `async_session_state` has it."""

    model_config = ConfigDict(extra="ignore")

    id: UUID
    session_id: str = Field(description="Its events: /api/sessions/{session_id}/events.")
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


class Conversation(ConversationLine):
    """A conversation, its newest work, and the replies that are still to come."""

    workspace_id: UUID | None = Field(default=None, description="null for a guest.")
    shared_until: AwareDatetime | None = Field(
        default=None,
        description="Until when the holder of its guest session reaches it; null: no one.",
    )
    work: list[WorkItem]
    replies: list[Reply]


class Shared(BaseModel):
    """The guest session a conversation is open to: its id is the key."""

    model_config = ConfigDict(extra="ignore")

    session_id: str
    expires_at: AwareDatetime


class ConversationPage(BaseModel):
    """Conversations, the one written in last first."""

    conversations: list[ConversationLine]
    next: str | None = Field(description="Pass as `after` for more; null at the end.")
