"""Lenient parsing of a model's answer, because the answer has already been paid for.

`json_repair` repairs invalid JSON, and pydantic validates the fields of the answer.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from minutehand.ai.subprocess_env import subprocess_environment
from minutehand.worker.serialization import has_text, is_blank, sanitize

Shape = TypeVar("Shape", bound=BaseModel)
#: Pattern of the possible start of a JSON object in a text.
_OBJECT = re.compile(r'\{(?=\s*["}])')
#: Parser that reads NaN and infinity as null, so that a validation error names the field. Strings
#: may contain line breaks.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None, strict=False)
_FENCED = re.compile(r"\s*`{3,}\w*\s*\n(.*?)\s*`{3,}\s*", re.DOTALL)
#: Maximum seconds for the repair of an answer on a busy machine.
MAX_SECONDS = 20
#: Strings whose maximum length is lower are never cut, because they may be names to which other
#: fields refer.
MIN_CLIPPED = 40
#: Pattern of the beginning of an answer that is data, or reasoning without an end.
_NOT_PLAIN_TEXT = re.compile(
    r"\s*(?:\{|\[\s*[\[{\"\]\d-]|`{3,}\s*(?:json|yaml|xml)?\s*[{\[<]|<think|\[THINK|<\|"
    r"|(?:null|true|false)\s*$)"
)
#: Pattern of special tokens at the end of an answer, which the server should have removed.
_END = re.compile(r"(?:\s*(?:<\|\w+\|>|</s>))+\s*\Z")
#: An answer is not prose if the name of the type's only field is among this many first characters.
MAX_NAME_AT = 100


class UnparsableOutput(Exception):
    """A text contains no value of the requested type.

    The repeated request to the language model contains the message of the error.

    Attributes:
        cut_off: True if the text is only the beginning of an answer.
    """

    def __init__(self, reason: str, *, cut_off: bool = False) -> None:
        self.cut_off = cut_off
        super().__init__(reason)


def read_shape(
    text: str, shape: type[Shape], *, field: str | None = None, whole: bool = True
) -> Shape:
    """Return the last object in `text` that fits `shape`. Values that are too long are cut.

    The object may be inside another object or a list. A text that is not valid JSON is repaired.

    Args:
        field: The field that gets the whole text if the answer is prose. Default: the only required
            field, if it is a string.
        whole: False if the model stopped at the token limit.

    Raises:
        UnparsableOutput: No object in the text fits. The message of the error names the invalid
            fields of the answer.
    """
    field = field or only_text(shape)
    candidates = _values(text, whole=whole)
    if whole and field is not None and is_plain_text(text, shape, field):
        candidates.append({field: _END.sub("", text).strip()})
    result, message = _first_valid(candidates, shape, field)
    if result is None:
        raise UnparsableOutput(message or "it contains no JSON object that fits the schema")
    return result


def is_plain_text(text: str, shape: type[BaseModel], field: str) -> bool:
    """Return whether `text` is prose for people, and not the fields of `shape` in some notation.

    Tags, tables, assignments and bold field names are notations of fields. Prose may contain the
    name of one field, such as "Title:", but not the names of both `field` and the first field.
    """
    if _NOT_PLAIN_TEXT.match(text) or not has_text(text):
        return False
    names = "|".join(map(re.escape, shape.model_fields))
    if re.search(rf"""["'](?:{names})["']\s*:|(?m:^)\s*(?:{names})\s*:""", text):
        return False
    label = rf"""(?im)(?:^|[-"'*`#<(\[|:&=,])[ \t]*({names})[ \t"'*`)\]]*(?:[:=>|]|$)"""
    if len(shape.model_fields) == 1:
        return re.search(label, text[:MAX_NAME_AT]) is None
    labels = {name.lower() for name in re.findall(label, text)}
    first = next(iter(shape.model_fields))
    return len(labels) == 1 or not {field, first} <= labels


def only_text(shape: type[BaseModel]) -> str | None:
    """Return the name of a type's only required field, if it is a string."""
    required = [name for name, field in shape.model_fields.items() if field.is_required()]
    return (
        required[0]
        if len(required) == 1 and shape.model_fields[required[0]].annotation is str
        else None
    )


def _values(text: str, *, whole: bool) -> list[Any]:
    """Return the JSON values in a text. The last value comes first.

    A text that is not JSON is repaired. `json_repair` does not change valid objects inside other
    text.

    Raises:
        UnparsableOutput: The text is truncated. After a repair, half of an object would seem
            complete.
    """
    fenced = _FENCED.fullmatch(text)
    inner = fenced[1] if fenced else text
    with suppress(ValueError, RecursionError):
        return [_DECODER.decode(inner.strip().removeprefix("\ufeff"))]
    if not whole or _is_cut_off(text):
        raise UnparsableOutput("it is truncated", cut_off=True)
    if "{" not in text:
        return []
    command = [sys.executable, str(Path(__file__).with_name("repair_process.py"))]
    try:
        process = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            check=True,
            timeout=MAX_SECONDS,
            env=subprocess_environment(),
        )
        repaired = json.loads(process.stdout)
    except (subprocess.SubprocessError, ValueError, RecursionError):
        return []
    # drop values that are not objects, because json_repair turns prose into strings and lists
    values = repaired[::-1] if isinstance(repaired, list) else [repaired]
    return [value for value in values if isinstance(value, dict)]


def _is_cut_off(text: str) -> bool:
    """Return whether the first unfinished object in a text is valid JSON so far."""
    at = 0
    while match := _OBJECT.search(text, at):
        try:
            _, at = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            with suppress(ValueError):
                from_json(text[match.start() :], allow_partial="trailing-strings")
                return True
            return False
    return False


def _first_valid(
    candidates: list[Any], shape: type[Shape], field: str | None
) -> tuple[Shape | None, str | None]:
    """Return the first value that fits, or otherwise the error of the first value."""
    message: str | None = None
    for candidate in candidates:
        for value in _candidates(candidate, shape, field):
            try:
                return _validated(value, shape), None
            except UnparsableOutput as error:
                message = message or str(error)
    return None, message


def _candidates(value: Any, shape: type[BaseModel], field: str | None) -> Iterator[dict[str, Any]]:
    """Yield the answer, the objects inside the answer, and an object around a plain value.

    An object without any field of `shape` is skipped, even if all fields of `shape` are optional.
    """
    names = shape.model_fields.keys()
    value = _decoded(value)
    if isinstance(value, dict):
        if names & value.keys():
            # the field's value may be the whole answer again, as a JSON string
            inner = _decoded(value.get(field or ""))
            if isinstance(inner, dict) and names & inner.keys():
                yield inner
            yield value
        for inner in map(_decoded, reversed(value.values())):
            if isinstance(inner, dict) and names & inner.keys():
                yield inner
            elif isinstance(inner, str) and field and len(value) == 1 and field not in value:
                yield {field: inner}
    elif isinstance(value, list):
        for inner in reversed(value):
            if isinstance(inner, dict) and names & inner.keys():
                yield inner
        if value and len(names) == 1:
            yield {next(iter(names)): value}
    elif isinstance(value, str) and field is not None:
        yield {field: value}


def _decoded(value: Any) -> Any:
    """Parse a string that contains JSON. Return every other value unchanged."""
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            return _DECODER.decode(value)
    return value


def _validated(value: dict[str, Any], shape: type[Shape]) -> Shape:
    data = _without_blanks(_storable(value))
    while True:
        try:
            found = shape.model_validate(data)
            _storable(found.model_dump())  # validation may convert the string "NaN" to a number
            return found
        except ValidationError as error:
            # validate again, because the error about a long list hides errors about its items
            if any([_clip(data, details) for details in error.errors()]):
                continue
            raise UnparsableOutput(
                "; ".join(
                    f"{'.'.join(map(str, details['loc'])) or 'the whole answer'}: {details['msg']}"
                    for details in error.errors()[:5]
                )
            ) from error


def _storable(value: Any) -> Any:
    """Remove NUL characters. Reject infinity and NaN, which JSON cannot express."""
    result = sanitize(value)
    if result.refused is not None:
        raise UnparsableOutput(result.refused)
    return result.value


def _without_blanks(value: Any) -> Any:
    """Replace strings without visible characters by "", or remove such strings from a list."""
    if isinstance(value, str):
        return "" if is_blank(value) else value
    if isinstance(value, list):
        items = [item for item in value if not (isinstance(item, str) and is_blank(item))]
        return [_without_blanks(item) for item in items]
    if isinstance(value, dict):
        return {name: _without_blanks(member) for name, member in value.items()}
    return value


def _clip(data: Any, details: Any) -> bool:
    """If a value of the answer is longer than the schema allows, cut the value.

    Return whether the value was cut.
    """
    limit = details.get("ctx", {}).get("max_length", 0)
    minimum = {"too_long": 1, "string_too_long": MIN_CLIPPED}.get(details["type"])
    if minimum is None or limit < minimum:
        return False
    *path, last = details["loc"]
    try:
        for name in path:
            data = data[name]
        value = data[last]
        data[last] = value[: limit - 1] + "…" if isinstance(value, str) else value[:limit]
    except (LookupError, TypeError):
        return False  # an earlier cut has removed the value, or a part of the path is not a key
    return True
