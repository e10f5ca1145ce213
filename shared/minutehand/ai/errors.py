"""What can go wrong with a language model or speech to text, by what a caller can do about it.

LanguageModelError   .code            .hope        .charged
├─                   not_authorised   none         no     401, 403: no request will do better
├─                   out_of_credit    none         no     402: neither
├─                   misconfigured    none         no     3xx, 404, 405: the address or the model
├─                   rate_limited     later        no     429; .retry_after says when
├─                   unreachable      later        no     502, 503 or a request that never left
├─                   silent           later        maybe  408, 504 or no answer in time
├─                   cut_short        later        maybe  the connection ended before the answer
├─                   failed           later        no     any other 5xx
├─ InputRefused      input_refused    differently  no     4xx: this prompt will not do, another may
└─ AnswerUnusable    answer_unusable  differently  yes    a whole answer, but not what was asked for
   └─ AnswerCutOff   answer_too_long                      it reached the most tokens allowed
"""

from __future__ import annotations

from typing import Any

from minutehand.worker.vendor import Hope, VendorError

__all__ = ["AnswerCutOff", "AnswerUnusable", "Hope", "InputRefused", "LanguageModelError"]


class LanguageModelError(VendorError):
    """A model did not answer as it should.

    Attributes:
        text: The answer, where there was one; `cost_usd` what it cost.
    """

    vendor = "The language model"

    def __init__(
        self, message: str, *, text: str = "", cost_usd: float = 0.0, **options: Any
    ) -> None:
        self.text = text
        self.cost_usd = cost_usd
        super().__init__(message, **options)


class InputRefused(LanguageModelError):
    """The model will not take or answer this prompt."""

    code = "input_refused"
    hope = "differently"


class AnswerUnusable(LanguageModelError):
    """A whole answer that is not of the shape asked for."""

    code = "answer_unusable"
    hope = "differently"
    charged = True


class AnswerCutOff(AnswerUnusable):
    """An answer that ended at the most tokens allowed."""

    code = "answer_too_long"
