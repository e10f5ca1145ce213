"""What the greetings app's jobs carry."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SendGreetings(BaseModel):
    """The payload of `greetings.send`; the queue refuses what does not fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=200)
