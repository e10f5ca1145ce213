"""What can go wrong with a language model or speech to text, by what a caller can do about it.

LanguageModelError       .text is what had come, .retry_after what it asked for
├─ NotAuthorised         401, 403   the key is wrong: no other request will do better
├─ OutOfCredit           402        the account is empty: neither
├─ InputRefused          4xx        this prompt will not do; another may
├─ RateLimited           429        later
├─ Unreachable           5xx, none  later; nothing of an answer had come
├─ CutShort              ended early  part of the answer had arrived, and is kept
└─ AnswerUnusable        200        a whole answer, but not what was asked for
"""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Literal

from minutehand.config import JobServiceError

#: What a caller can do: ask again later, ask something else, or ask nothing more.
Hope = Literal["later", "differently", "none"]


class LanguageModelError(JobServiceError):
    """A model did not answer as it should.

    Attributes:
        code: The stable word of the type.
        hope: What may help.
        text: What of the answer had come before.
        status: The HTTP status, where there was one.
        retry_after: How long the service asked to be left alone; None when it did not say.
        repeatable: Whether asking again at once cannot be charged twice.
        usage: What the answer took, where that is known.
    """

    code: ClassVar[str] = "model_error"
    hope: ClassVar[Hope] = "later"

    def __init__(
        self,
        message: str,
        *,
        text: str = "",
        status: int | None = None,
        retry_after: timedelta | None = None,
        repeatable: bool = False,
        usage: object = None,
    ) -> None:
        self.text = text
        self.status = status
        self.retry_after = retry_after
        self.repeatable = repeatable
        self.usage = usage
        super().__init__(message)


class NotAuthorised(LanguageModelError):
    """The key was refused."""

    code = "not_authorised"
    hope = "none"


class OutOfCredit(LanguageModelError):
    """The account has no credit left."""

    code = "out_of_credit"
    hope = "none"


class InputRefused(LanguageModelError):
    """The model will not take or answer this prompt."""

    code = "input_refused"
    hope = "differently"


class RateLimited(LanguageModelError):
    """Too many requests; `retry_after` says for how long, if the service did."""

    code = "rate_limited"


class Unreachable(LanguageModelError):
    """No answer: refused connections, errors of the server's, silence."""

    code = "unreachable"


class CutShort(LanguageModelError):
    """The answer ended early; `text` is what had arrived."""

    code = "cut_short"


class AnswerUnusable(LanguageModelError):
    """A whole answer that is not of the shape asked for."""

    code = "answer_unusable"
    hope = "differently"
