"""Errors of language models and speech engines, grouped by the next step of the caller.

LanguageModelError   .code            .hope        .charged
├─                   not_authorised   none         no     401, 403
├─                   out_of_credit    none         no     402
├─                   misconfigured    none         no     3xx, 404, 405: wrong address or model
├─                   rate_limited     later        no     429, with .retry_after
├─                   unreachable      later        no     502, 503 or a request that was not sent
├─                   silent           later        maybe  408, 504 or a time-out
├─                   cut_short        later        maybe  the connection ended before the answer
├─                   failed           later        no     any other 5xx
├─ InputRefused      input_refused    differently  no     4xx: the model rejects this prompt
└─ UnusableOutput    answer_unusable  differently  yes    the answer does not have the shape
   └─ TruncatedOutput  answer_too_long                    the answer reached the token limit
"""

from typing import Any

from minutehand.worker.vendor import VendorError

#: Messages for people about an answer that has no text, and about one in another form.
EMPTY_MESSAGE = "The language model's answer was empty. Try again, or change the request."
FORM_MESSAGE = (
    "The language model's answer did not have the requested form. Try again, or change the request."
)


class LanguageModelError(VendorError):
    """A call of a language model or speech engine failed.

    Attributes:
        text: The part of the answer that arrived before the failure.
        cost_usd: Cost of the call.
    """

    vendor = "The language model"

    def __init__(
        self, message: str, *, text: str = "", cost_usd: float = 0.0, **options: Any
    ) -> None:
        self.text = text
        self.cost_usd = cost_usd
        super().__init__(message, **options)


class InputRefused(LanguageModelError):
    """The language model or its endpoint rejects the prompt of the request."""

    code = "input_refused"
    hope = "differently"


class UnusableOutput(LanguageModelError):
    """The model returned a complete answer that does not fit the requested type."""

    code = "answer_unusable"
    hope = "differently"
    charged = True


class TruncatedOutput(UnusableOutput):
    """The answer of the model ended at the token limit."""

    code = "answer_too_long"
