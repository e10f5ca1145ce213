"""TypeScript types for JSON Schemas as pydantic writes them, for `minutehand types`.

What a schema says beyond a type (lengths, patterns, bounds) is left to the database to check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

HEAD: Final = "// Written by `minutehand types`; do not edit, run it again.\n\n"
#: The package's type for anything that JSON can hold.
_JSON: Final = "Json"
_EXTENDED: Final = 'import "minutehand";'
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][\w$]*")
_PLAIN: Final[Mapping[str, str]] = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}


@dataclass(frozen=True)
class TypedJob:
    """A job type and the schemas of what it takes and returns; `result` is None when not said."""

    name: str
    payload: Mapping[str, Any]
    result: Mapping[str, Any] | None = None


def write_declarations(jobs: Iterable[TypedJob]) -> str:
    """The text of a declaration file that gives package `minutehand` these job types.

    The same job types give the same text, in any order.
    """
    names = TypeNames()
    entries = []
    for job in sorted(jobs, key=lambda job: job.name):
        payload = names.type_of(job.payload)
        result = "unknown" if job.result is None else names.type_of(job.result)
        entries.append(f"    {_key(job.name)}: {{ payload: {payload}; result: {result} }};\n")
    body = "".join(f"\n{text}\n" for text in names.declarations())
    known = f"  interface JobTypes {{\n{''.join(entries)}  }}\n"
    imported = f'import type {{ {_JSON} }} from "minutehand";' if names.use_json else _EXTENDED
    return f'{HEAD}{imported}\n{body}\ndeclare module "minutehand" {{\n{known}}}\n'


class TypeNames:
    """Gives each model of the schemas one name, and another one to a second of that name.

    Args:
        definitions: What `$ref` leads to in every schema, beside the schema's own `$defs`.
    """

    def __init__(self, definitions: Mapping[str, Any] | None = None) -> None:
        self._definitions = definitions or {}
        self._texts: dict[str, str] = {}  # name → its declared type, "" while it is being written
        self._owners: dict[str, str] = {}  # name → its schema, as canonical JSON
        self.use_json = False  #: Whether a type was written that the package must give.

    def declarations(self) -> Iterator[str]:
        """Each named type, sorted by name."""
        for name, text in sorted(self._texts.items()):
            yield f"export type {name} = {text};"

    def type_of(self, schema: Mapping[str, Any]) -> str:
        """The type of a whole schema; an object with a title gets a name."""
        definitions = {**self._definitions, **schema.get("$defs", {})}
        if schema.get("type") == "object" and "title" in schema and "properties" in schema:
            return self._named(str(schema["title"]), schema, definitions)
        return self._write(schema, definitions, 0)

    def _named(self, title: str, schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
        own = json.dumps([schema, reached(schema, definitions)], sort_keys=True)
        wanted = re.sub(r"\W+", "_", title).strip("_") or "Model"
        wanted = f"_{wanted}" if wanted[0].isdigit() else wanted
        number, name = 1, wanted
        while name == _JSON or self._owners.get(name, own) != own:
            number += 1
            name = f"{wanted}{number}"
        if name not in self._owners:
            self._owners[name] = own
            self._texts[name] = ""
            self._texts[name] = self._write(schema, definitions, 0)
        return name

    def _write(self, schema: Any, definitions: Mapping[str, Any], depth: int) -> str:
        if not isinstance(schema, Mapping):  # true: anything; false: nothing
            return "never" if schema is False else self._anything()
        if "$ref" in schema:
            name = str(schema["$ref"]).rpartition("/")[2]
            return self._named(name, definitions[name], definitions)
        if "const" in schema:
            return json.dumps(schema["const"], ensure_ascii=False)
        if "enum" in schema:
            return _union(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return _union(self._write(one, definitions, depth) for one in schema[word])
        if "allOf" in schema:
            parts = (self._write(one, definitions, depth) for one in schema["allOf"])
            return " & ".join(_bracketed(part) for part in parts)
        kind = schema.get("type")
        if isinstance(kind, list):
            return _union(self._write({**schema, "type": one}, definitions, depth) for one in kind)
        if kind == "array":
            return self._array(schema, definitions, depth)
        if kind == "object" or "properties" in schema:
            return self._object(schema, definitions, depth)
        return _PLAIN.get(str(kind)) or self._anything()

    def _array(self, schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> str:
        if "prefixItems" in schema:
            parts = [self._write(one, definitions, depth) for one in schema["prefixItems"]]
            rest = schema.get("items", False)
            if rest is not False:
                parts.append(f"...{_bracketed(self._write(rest, definitions, depth))}[]")
            return f"[{', '.join(parts)}]"
        return f"{_bracketed(self._write(schema.get('items', True), definitions, depth))}[]"

    def _object(self, schema: Mapping[str, Any], definitions: Mapping[str, Any], depth: int) -> str:
        required = frozenset(schema.get("required", ()))
        lines: list[str] = []
        indent = "  " * (depth + 1)
        for name, inner in schema.get("properties", {}).items():
            told = inner.get("description") if isinstance(inner, Mapping) else None
            lines += _comment(told, indent)
            mark = "" if name in required else "?"
            lines.append(
                f"{indent}{_key(name)}{mark}: {self._write(inner, definitions, depth + 1)};"
            )
        # silence means "ignored" where there are names: a misspelt one is better refused here
        rest = schema.get("additionalProperties", not lines)
        if not lines:
            inner = "never" if rest is False else self._write(rest, definitions, depth + 1)
            return f"{{ [name: string]: {inner} }}"
        if rest is not False:
            # the names above must fit it as well, so nothing narrower is true
            lines.append(f"{indent}[name: string]: {self._anything()} | undefined;")
        return "{\n" + "\n".join(lines) + "\n" + "  " * depth + "}"

    def _anything(self) -> str:
        self.use_json = True
        return _JSON


def reached(schema: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that a schema leads to, by name."""
    found: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            name = str(one.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in found:
                found[name] = definitions[name]
                waiting.append(definitions[name])
            waiting += one.values()
        elif isinstance(one, Sequence) and not isinstance(one, str):
            waiting += one
    return found


def _union(parts: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(parts)) or "never"


def _bracketed(text: str) -> str:
    return f"({text})" if " | " in text or " & " in text else text


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _comment(text: object, indent: str) -> list[str]:
    if not isinstance(text, str) or not text.strip():
        return []
    words = " ".join(text.replace("*/", "* /").split())
    return [f"{indent}/** {words} */"]
