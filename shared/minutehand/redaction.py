"""Hides what looks like a key, a token or a password in what a failed attempt keeps.

One list for messages, data and lines of code; what is kept of an attempt is settlement's. Linear in
its input: the patterns see at most `_WINDOW` characters at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

HIDDEN: Final = "[hidden]"
#: Most characters that are looked through of one error: far more than is kept of any.
MOST_READ: Final = 20_000
#: Longest piece of a text that is matched at once; pieces end at line breaks and spaces.
_WINDOW: Final = 400

_NAMED = r"(?:api_?key|key|secret|token|passw(?:or)?d|passphrase|credentials?|authorization)"
#: Names that are never before an ordinary word, as `key: name` does.
_TELLING = (
    r"(?:[\w-]{0,40}(?:(?:api|access|private|account)[_-]?key|secret|token|passw(?:or)?d|passphrase"
    r"|pwd|cookie)[\w-]{0,40}|authorization|credentials?|pass|jwt)"
)
_TELLING_NAME: Final = re.compile(rf"(?i){_TELLING}$")
#: Secrets of several lines: a PEM file, what pydantic quotes of a field.
_OF_LINES = (
    (r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,30}-----)?", "{}"),
    (
        rf"(?mi)^((?:[\w.]{{1,80}}\.)?{_TELLING}\n.{{0,500}}\binput_value=).{{0,500}}"
        r"(?=, input_type=)",
        r"\1{}",
    ),
)
_WORD: Final = re.compile(r"\S*")
_PARAMETER = (
    r"[\w.-]{0,40}(?:key|secret|token|passw|pwd|credential|signature)[\w.-]{0,40}|sig|hmac|sid|otp"
    r"|(?:[\w.-]{0,40}[_.-])?(?:pass(?:code|phrase)?|pw)|jwt|session|code|auth"
)
_PREFIXES = "sk|pk|rk|sb|gh[oprsu]|github_pat|glpat|npm|hf|xox[abeprs]|whsec"
_OF_PIECES = (
    # a literal that a telling name is set or compared to: token = "…", {"api_key": '…'}
    (
        rf"""(?i)({_NAMED}(?!error)\w{{0,40}}["']?\s*(?:=|:|==|,)\s*[rbf]*)(["'])(?:(?!\2).)+\2""",
        r"\1\2{}\2",
    ),
    (r"(?i)\b(bearer|basic)\s+(?!auth)[\w.~+/-]{8,}=*", r"\1 {}"),
    (r"(?i)\b(authorization:\s*\w{3,20})\s+(?!\[)[\w.~+/-]{4,}=*", r"\1 {}"),
    # addresses that are secrets themselves: webhooks of chat services, Telegram's bots
    (
        r"(https://(?:hooks\.[\w.]{1,40}|[\w.]{0,40}discord\w*\.com/api/webhooks)/)[^\s\"'<>]+",
        r"\1{}",
    ),
    (r"(/bot\d{5,12}:)[\w-]{20,}", r"\1{}"),
    # what Postgres quotes of a row, and a command's option
    (rf"(?i)(\b{_TELLING}\)=\()[^)]*\)", r"\1{})"),
    (rf"(?i)(--?{_TELLING}\s+)(?![-\[])\S{{4,}}", r"\1{}"),
    # a password in an address, also one with @ or / in it; digits before a path are a port
    (r"""(\b\w+://[^\s:/@]*:)(?!\d+(?:[/?#]|$))[^\s"'<>]+@""", r"\1{}@"),
    (r"(\b\w+://)[^\s:/@]{16,}@", r"\1{}@"),
    # parameters of an address: those with telling names, and long opaque values
    (rf"""(?i)([?&](?:{_PARAMETER})=)[^&\s"'#<>]+""", r"\1{}"),
    (r"([?&][\w.-]{1,80}=)[\w%~+/=.-]{20,}", r"\1{}"),
    (r"\beyJ[\w-]{10,}\.[\w-]{5,}\.[\w-]*", "{}"),
    (rf"\b(?:{_PREFIXES})[_-][\w-]{{12,}}", "{}"),
    (r"\bSG\.[\w-]{16,}\.[\w-]{16,}", "{}"),
    (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}", "{}"),
    (r"\b[0-9a-fA-F]{40,}\b", "{}"),
    # in a sentence, where digits show that it is not a word: the API key 3kF9… was refused
    (
        r"""(?i)\b((?:api[ _-]?key|token|password|secret)(?:,? (?:is|provided|given))?:?\s["'`]?)"""
        r"(?=[\w~+/.-]{0,40}\d)(?=[\w~+/.-]{0,40}[a-z])[\w~+/-]{10,}=*",
        r"\1{}",
    ),
    # without quotes: password=…, x-api-key: …; a call or a look-up in a line of code is not a value
    (
        rf"(?i)(\b{_TELLING}\s?(?:=\s?|:\s?(?=\S*\d)))(?![\w.]*[(\[])"
        r"""[^\s"',;&(){}\[\]]{4,}""",
        r"\1{}",
    ),
)


@cache
def _compiled(patterns: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    """The patterns, made with the first error: a process that starts has none yet."""
    return [(re.compile(pattern), instead.format(HIDDEN)) for pattern, instead in patterns]


def without_secrets(text: str) -> str:
    """`text`, of `MOST_READ` characters at most, with what looks like a secret replaced."""
    text = text[:MOST_READ]
    for pattern, instead in _compiled(_OF_LINES):
        text = pattern.sub(instead, text)
    return "".join(_filtered(piece) for piece in _pieces(text))


def _filtered(piece: str) -> str:
    for pattern, instead in _compiled(_OF_PIECES):
        piece = pattern.sub(instead, piece)
    return piece


def _pieces(text: str) -> Iterator[str]:
    """Cut a text at line breaks and spaces; the rest of a longer word is hidden."""
    for line in text.splitlines(keepends=True):
        while len(line) > _WINDOW:
            end = line.rfind(" ", 0, _WINDOW) + 1
            if end:
                yield line[:end]
                line = line[end:]
            else:
                yield line[:_WINDOW]
                yield HIDDEN
                line = _WORD.sub("", line[_WINDOW:], count=1)
        yield line


class Redactor:
    """Filters the parts of one error, `MOST_READ` characters in all; what is beyond is omitted."""

    def __init__(self) -> None:
        self._left = MOST_READ

    def text(self, text: str) -> str:
        """Filter a text."""
        text = text[: self._left]
        self._left -= len(text)
        return without_secrets(text)

    def data(self, value: Any) -> Any:
        """Filter the texts in plain JSON, and hide those that a telling name holds."""
        match value:
            case str():
                return self.text(value)
            case list():
                return [self.data(item) for item in value]
            case dict():
                return {
                    self.text(name): _hidden(item) if _TELLING_NAME.match(name) else self.data(item)
                    for name, item in value.items()
                }
        return value


def _hidden(value: Any) -> Any:
    """What a telling name holds: its texts are hidden at every level; numbers, as counts, stay."""
    match value:
        case str():
            return value and HIDDEN
        case list():
            return [_hidden(item) for item in value]
        case dict():
            return {name[:100]: _hidden(item) for name, item in value.items()}
    return value
