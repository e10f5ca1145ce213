"""Redacts likely keys, tokens and passwords in the stored errors of attempts.

The same patterns are applied to messages, data and lines of code. The time grows linearly with the
length of a text, because each pattern is applied to at most `_WINDOW` characters.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

HIDDEN = "[hidden]"
#: Maximum characters of an error that are read. The database stores far fewer characters.
MAX_READ = 20_000
#: Maximum characters to which a pattern is applied. A text is split at line breaks and spaces.
_WINDOW = 400

_NAMED = r"(?:api_?key|key|secret|token|passw(?:or)?d|passphrase|credentials?|authorization)"
#: Names whose value is always a secret. `key` is not one of them, because `key: name` is normal
#: text.
_TELLING = (
    r"(?:[\w-]{0,40}(?:(?:api|access|private|account)[_-]?key|secret|token|passw(?:or)?d|passphrase"
    r"|pwd|cookie)[\w-]{0,40}|authorization|credentials?|pass|jwt)"
)
_TELLING_NAME = re.compile(rf"(?i){_TELLING}$")
#: Patterns of secrets that span lines: a PEM file, and the value of a field in pydantic's error.
_MULTILINE_PATTERNS = (
    (r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*(?:-----END [A-Z ]{0,30}-----)?", "{}"),
    (
        rf"(?mi)^((?:[\w.]{{1,80}}\.)?{_TELLING}\n.{{0,500}}\binput_value=).{{0,500}}"
        r"(?=, input_type=)",
        r"\1{}",
    ),
)
_WORD = re.compile(r"\S*")
_PARAMETER = (
    r"[\w.-]{0,40}(?:key|secret|token|passw|pwd|credential|signature)[\w.-]{0,40}|sig|hmac|sid|otp"
    r"|(?:[\w.-]{0,40}[_.-])?(?:pass(?:code|phrase)?|pw)|jwt|session|code|auth"
)
_PREFIXES = "sk|pk|rk|sb|gh[oprsu]|github_pat|glpat|npm|hf|xox[abeprs]|whsec"
_CHUNK_PATTERNS = (
    # a string literal after such a name: token = "…", {"api_key": '…'}, but not the next name
    (
        rf"""(?i)({_NAMED}(?!error)\w{{0,40}}["']?\s*(?:=|:|==|,(?!\s*"\w+":))\s*[rbf]*)"""
        r"""(["'])(?:(?!\2).)+\2""",
        r"\1\2{}\2",
    ),
    # errors of HTTP clients: Illegal header value b'…'
    (r"""(?i)(header value:?\s+b?)(["'])(?:(?!\2).)+\2""", r"\1\2{}\2"),
    (r"(?i)\b(bearer|basic)\s+(?!auth)[\w.~+/-]{8,}=*", r"\1 {}"),
    (r"(?i)\b(authorization:\s*\w{3,20})\s+(?!\[)[\w.~+/-]{4,}=*", r"\1 {}"),
    # secret parts of addresses: webhooks of chat services, and Telegram's bots
    (
        r"(https://(?:hooks\.[\w.]{1,40}|[\w.]{0,40}discord\w*\.com/api/webhooks)/)[^\s\"'<>]+",
        r"\1{}",
    ),
    (r"(/bot\d{5,12}:)[\w-]{20,}", r"\1{}"),
    # the values of a row in an error of Postgres, and an option in a command line
    (rf"(?i)(\b{_TELLING}\)=\()[^)]*\)", r"\1{})"),
    (rf"(?i)(--?{_TELLING}\s+)(?![-\[])\S{{4,}}", r"\1{}"),
    # the password in an address, which may contain @ or /. Digits before a path are a port, not a
    # password.
    (r"""(\b\w+://[^\s:/@]*:)(?!\d+(?:[/?#]|$))[^\s"'<>]+@""", r"\1{}@"),
    (r"(\b\w+://)[^\s:/@]{16,}@", r"\1{}@"),
    # parameters of an address with the name of a secret, or with a long random value
    (rf"""(?i)([?&](?:{_PARAMETER})=)[^&\s"'#<>]+""", r"\1{}"),
    (r"([?&][\w.-]{1,80}=)[\w%~+/=.-]{20,}", r"\1{}"),
    (r"\beyJ[\w-]{10,}\.[\w-]{5,}\.[\w-]*", "{}"),
    (rf"\b(?:{_PREFIXES})[_-][\w-]{{12,}}", "{}"),
    (r"\bSG\.[\w-]{16,}\.[\w-]{16,}", "{}"),
    (r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bAIza[\w-]{30,}", "{}"),
    (r"\b[0-9a-fA-F]{40,}\b", "{}"),
    # a value after the name of a secret, with digits and letters: the API key 3kF9… was rejected
    (
        r"""(?i)\b((?:api[ _-]?key|token|password|secret)(?:,? (?:is|provided|given))?:?\s["'`]?)"""
        r"(?=[\w~+/.-]{0,40}\d)(?=[\w~+/.-]{0,40}[a-z])[\w~+/-]{10,}=*",
        r"\1{}",
    ),
    # values without quotes, e.g. password=… or x-api-key: …, except calls in a line of code
    (
        rf"(?i)(\b{_TELLING}\s?(?:=\s?|:\s?(?=\S*\d)))(?![\w.]*[(\[])"
        r"""[^\s"',;&(){}\[\]]{4,}""",
        r"\1{}",
    ),
)


@cache
def _compiled(patterns: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    """Compile the patterns at their first use, because most processes never need them."""
    return [(re.compile(pattern), template.format(HIDDEN)) for pattern, template in patterns]


def without_secrets(text: str) -> str:
    """Return the first `MAX_READ` characters of a text, in which likely secrets are replaced."""
    text = _hide(_MULTILINE_PATTERNS, text[:MAX_READ])
    return "".join(_hide(_CHUNK_PATTERNS, chunk) for chunk in _chunks(text))


def _hide(patterns: tuple[tuple[str, str], ...], text: str) -> str:
    for pattern, replacement in _compiled(patterns):
        text = pattern.sub(replacement, text)
    return text


def _chunks(text: str) -> Iterator[str]:
    """Split a text at line breaks and spaces. Replace the end of a word that is too long."""
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
    """Redacts all parts of one error. All parts together have at most `MAX_READ` characters."""

    def __init__(self) -> None:
        self._remaining = MAX_READ

    def text(self, text: str) -> str:
        """Redact a text of the error."""
        text = text[: self._remaining]
        self._remaining -= len(text)
        return without_secrets(text)

    def data(self, value: Any) -> Any:
        """Redact secrets in strings of JSON data, and all strings of keys that name a secret."""
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
    """Redact all strings in the value of a key that names a secret. Keep numbers, e.g. counts."""
    match value:
        case str():
            return value and HIDDEN
        case list():
            return [_hidden(item) for item in value]
        case dict():
            return {name[:100]: _hidden(item) for name, item in value.items()}
    return value
