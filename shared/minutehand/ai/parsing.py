"""A model's words read as a shape, leniently: an answer that is paid for is used where it can be.

Broken JSON is `json_repair`'s to mend, and what the shape allows pydantic's to say.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from minutehand.ai.subprocess_env import own_environment
from minutehand.worker.serialization import edge, is_blank, says_something

Shape = TypeVar("Shape", bound=BaseModel)
#: Where an object may begin in a text.
_OBJECT: Final = re.compile(r'\{(?=\s*["}])')
#: NaN and the infinities are no JSON: the field that has one says so. Texts may have line breaks.
_DECODER: Final = json.JSONDecoder(parse_constant=lambda _: None, strict=False)
_FENCED: Final = re.compile(r"\s*`{3,}\w*\s*\n(.*?)\s*`{3,}\s*", re.DOTALL)
#: Longest wait for repair, on a busy machine.
MOST_SECONDS: Final = 20
#: Texts with a smaller limit are names, which others refer to: they are never clipped.
SHORTEST_CLIPPED: Final = 40
#: What an answer begins with that is meant as data, or that is still a thought.
_NO_PROSE: Final = re.compile(
    r"\s*(?:\{|\[\s*[\[{\"\]\d-]|`{3,}\s*(?:json|yaml|xml)?\s*[{\[<]|<think|\[THINK|<\|"
    r"|(?:null|true|false)\s*$)"
)
#: What models say at their end that their servers should have taken off.
_END: Final = re.compile(r"(?:\s*(?:<\|\w+\|>|</s>))+\s*\Z")
#: A shape of one member is named within so many letters, by who means its object.
MOST_BEFORE_A_NAME: Final = 100


class Unreadable(Exception):
    """A text holds nothing of the shape; the text says why, for a model.

    Attributes:
        cut_off: It is the beginning of an answer.
    """

    def __init__(self, reason: str, *, cut_off: bool = False) -> None:
        self.cut_off = cut_off
        super().__init__(reason)


def read_shape(
    text: str, shape: type[Shape], *, field: str | None = None, whole: bool = True
) -> Shape:
    """The last object in `text` that is of `shape`; what is too long in it is clipped.

    One wrapper around it is taken off. What is not JSON as a whole is repaired.

    Args:
        field: The member that plain prose fills; the one text that the shape asks for, if there is
            one alone.
        whole: False when the model stopped at the most tokens allowed.

    Raises:
        Unreadable: There is none; the fields at fault are named.
    """
    field = field or only_text(shape)
    candidates = _values(text, whole=whole)
    if whole and field is not None and is_prose(text, shape, field):
        candidates.append({field: _END.sub("", text).strip()})
    found, fault = _first_of(candidates, shape, field)
    if found is None:
        raise Unreadable(fault or "it holds no JSON object of the schema")
    return found


def is_prose(text: str, shape: type[BaseModel], field: str) -> bool:
    """Whether `text` is words for people, and no try at an object of `shape` in any notation.

    Tags, tables, assignments and bold names are tries: people would read the names of members. Some
    may be words of the text, as "Title:", but not `field` beside the shape's first.
    """
    if _NO_PROSE.match(text) or not says_something(text):
        return False
    names = "|".join(map(re.escape, shape.model_fields))
    if re.search(rf"""["'](?:{names})["']\s*:|(?m:^)\s*(?:{names})\s*:""", text):
        return False
    label = rf"""(?im)(?:^|[-"'*`#<(\[|:&=,])[ \t]*({names})[ \t"'*`)\]]*(?:[:=>|]|$)"""
    if len(shape.model_fields) == 1:
        return re.search(label, text[:MOST_BEFORE_A_NAME]) is None
    found = {name.lower() for name in re.findall(label, text)}
    first = next(iter(shape.model_fields))
    return len(found) == 1 or not {field, first} <= found


def only_text(shape: type[BaseModel]) -> str | None:
    """The one text that a shape needs, if it needs nothing else."""
    needed = [name for name, field in shape.model_fields.items() if field.is_required()]
    return (
        needed[0] if len(needed) == 1 and shape.model_fields[needed[0]].annotation is str else None
    )


def _values(text: str, *, whole: bool) -> list[Any]:
    """The JSON values in a text, the last first: the whole text, or the objects that repair finds.

    `json_repair` reads valid objects between other words exactly.

    Raises:
        Unreadable: The text is cut off. Repaired, half of an object would look whole.
    """
    fenced = _FENCED.fullmatch(text)
    inner = fenced[1] if fenced else text
    with suppress(ValueError, RecursionError):
        return [_DECODER.decode(inner.strip().removeprefix("\ufeff"))]
    if not whole or _is_cut_off(text):
        raise Unreadable("it breaks off before its end", cut_off=True)
    if "{" not in text:
        return []
    command = [sys.executable, str(Path(__file__).with_name("repair_process.py"))]
    try:
        done = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            check=True,
            timeout=MOST_SECONDS,
            env=own_environment(),
        )
        found = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError, RecursionError):
        return []
    # json_repair also makes strings and lists of prose
    values = found[::-1] if isinstance(found, list) else [found]
    return [value for value in values if isinstance(value, dict)]


def _is_cut_off(text: str) -> bool:
    """Whether the first object that does not end in a text is valid as far as it goes."""
    at = 0
    while begins := _OBJECT.search(text, at):
        try:
            _, at = _DECODER.raw_decode(text, begins.start())
        except (ValueError, RecursionError):
            with suppress(ValueError):
                from_json(text[begins.start() :], allow_partial="trailing-strings")
                return True
            return False
    return False


def _first_of(
    candidates: list[Any], shape: type[Shape], field: str | None
) -> tuple[Shape | None, str | None]:
    """The first that fits, and why the first did not."""
    fault: str | None = None
    for candidate in candidates:
        for value in _forms(candidate, shape, field):
            try:
                return _fitted(value, shape), None
            except Unreadable as error:
                fault = fault or str(error)
    return None, fault


def _forms(value: Any, shape: type[BaseModel], field: str | None) -> Iterator[dict[str, Any]]:
    """What an answer may have meant: itself, what is in its wrapper, or a member without its name.

    An object that names no member of the shape is none of it, however little the shape asks for.
    """
    names = shape.model_fields.keys()
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            yield from _forms(_DECODER.decode(value), shape, field)
            return
    if isinstance(value, dict):
        if names & value.keys():
            with suppress(ValueError, RecursionError):
                # the whole answer once more, as the text of its field
                inner = _DECODER.decode(str(value.get(field or "")))
                if isinstance(inner, dict) and names & inner.keys():
                    yield inner
            yield value
        for inner in reversed(value.values()):
            if isinstance(inner, str):
                with suppress(ValueError, RecursionError):
                    inner = _DECODER.decode(inner)
            if isinstance(inner, dict) and names & inner.keys():
                yield inner
            elif isinstance(inner, str) and field and len(value) == 1 and field not in value:
                yield {field: inner}
        return
    if isinstance(value, list):
        for inner in reversed(value):
            if isinstance(inner, dict) and names & inner.keys():
                yield inner
        if value and len(names) == 1:
            yield {next(iter(names)): value}
    elif isinstance(value, str) and field is not None:
        yield {field: value}


def _fitted(value: dict[str, Any], shape: type[Shape]) -> Shape:
    plain = edge(value)  # whole texts: the database holds no NUL
    if plain.refused is not None:
        raise Unreadable(plain.refused)
    data = _without_blanks(plain.value)
    while True:
        try:
            return shape.model_validate(data)
        except ValidationError as error:
            # a list that is too long hides what is too long in it
            if any([_clip(data, each) for each in error.errors()]):
                continue
            raise Unreadable(
                "; ".join(
                    f"{'.'.join(map(str, each['loc'])) or 'the whole'}: {each['msg']}"
                    for each in error.errors()[:5]
                )
            ) from error


def _without_blanks(value: Any) -> Any:
    """Texts that no one sees as empty ones, which a shape may refuse; in lists they are dropped."""
    if isinstance(value, str):
        return "" if is_blank(value) else value
    if isinstance(value, list):
        kept = [each for each in value if not (isinstance(each, str) and is_blank(each))]
        return [_without_blanks(each) for each in kept]
    if isinstance(value, dict):
        return {name: _without_blanks(each) for name, each in value.items()}
    return value


def _clip(data: Any, fault: Any) -> bool:
    """Shorten in place what a fault says is too long; whether that was done."""
    most = fault.get("ctx", {}).get("max_length", 0)
    least = {"too_long": 1, "string_too_long": SHORTEST_CLIPPED}.get(fault["type"])
    if least is None or most < least:
        return False
    *path, last = fault["loc"]
    try:
        for name in path:
            data = data[name]
        value = data[last]
        data[last] = value[: most - 1] + "…" if isinstance(value, str) else value[:most]
    except (LookupError, TypeError):
        return False  # it was itself clipped, or its place is no plain path
    return True
