"""What can go wrong with a language model or speech to text, by what a caller can do about it.

LanguageModelError   .code            .hope
├─                   not_authorised   none         401, 403: no other request will do better
├─                   out_of_credit    none         402: neither
├─                   rate_limited     later        429; .retry_after says when
├─                   unreachable      later        502 to 504 or no answer; nothing of one had come
├─                   cut_short        later        the connection ended before the answer
├─                   failed           later        any other 5xx
├─ InputRefused      input_refused    differently  4xx: this prompt will not do, another may
└─ AnswerUnusable    answer_unusable  differently  a whole answer, but not what was asked for
   └─ AnswerCutOff                                 it reached the most tokens allowed
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, Literal

from minutehand.config import JobServiceError

#: What a caller can do: ask again later, ask something else, or ask nothing more.
Hope = Literal["later", "differently", "none"]
#: Codes of a model that is away or asks to wait: no attempt of a job is spent on it.
_AWAY: Final = frozenset({"rate_limited", "unreachable", "cut_short"})


class LanguageModelError(JobServiceError):
    """A model did not answer as it should.

    Attributes:
        text: The answer, where there was one; `cost_usd` what it cost, `status` HTTP's.
        retry_after: How long the service asked to wait; None when it did not say.
        repeatable: Whether asking again at once cannot be charged twice.
    """

    code: str = "unreachable"
    hope: Hope = "later"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hope: Hope | None = None,
        text: str = "",
        cost_usd: float = 0.0,
        status: int | None = None,
        retry_after: timedelta | None = None,
        repeatable: bool = False,
    ) -> None:
        self.code = code or self.code
        self.hope = hope or self.hope
        self.text = text
        self.cost_usd = cost_usd
        self.status = status
        self.retry_after = retry_after
        self.repeatable = repeatable
        super().__init__(message)

    @property
    def away(self) -> bool:
        """Whether the model is only to be waited for."""
        return self.code in _AWAY


class InputRefused(LanguageModelError):
    """The model will not take or answer this prompt."""

    code = "input_refused"
    hope = "differently"


class AnswerUnusable(LanguageModelError):
    """A whole answer that is not of the shape asked for."""

    code = "answer_unusable"
    hope = "differently"


class AnswerCutOff(AnswerUnusable):
    """An answer that ended at the most tokens allowed."""
