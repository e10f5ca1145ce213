"""Write `routes.d.ts` of the console and of each app's pages: what each route takes and answers.

usage: python -m infra.release.console_types

The types come from the OpenAPI document, so that `tsc` refuses a page that calls a route or reads
a field which is not served. The console's file has the engine's routes, an app's file its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from minutehand.cli.typescript import TypeNames, reached
from minutehand.config import Settings
from minutehand.functions.status.document import whole_document
from minutehand.web.services import Services

_ROOT: Final = Path(__file__).parents[2]
#: Where the types of the engine's routes are written.
ENGINE: Final = _ROOT / "infra/console/lib/routes.d.ts"
_HEAD: Final = """\
// Written by `python -m infra.release.console_types` from the OpenAPI document; do not edit.
// This file has no counterpart at run time.

/** Any JSON, such as a payload or a result. */
export type Json = any;
"""
_PLACES: Final = """\

/** The names in braces of a route. */
export type Places<R extends string> = R extends `${string}{${infer Name}}${infer Rest}`
  ? Name | Places<Rest>
  : never;

/** A value for each name in braces, then what else a call takes. */
export type Given<R extends string, More> = R extends `${string}{${string}}${infer Rest}`
  ? [place: string, ...Given<Rest, More>]
  : [more?: More];
"""
_JSON: Final = "application/json"


def written() -> dict[Path, str]:
    """Each declaration file with its text; the same routes give the same text."""
    engine = document()
    found = {ENGINE: write_routes(engine, more=_PLACES)}
    for console in sorted((_ROOT / "shared/minutehand_apps").glob("*/console")):
        whole = document(f"minutehand_apps.{console.parent.name}")
        own = {path: item for path, item in whole["paths"].items() if path not in engine["paths"]}
        found[console / "routes.d.ts"] = write_routes({**whole, "paths": own})
    return found


def document(*apps: str) -> dict[str, Any]:
    """The OpenAPI document of the engine's routes and of those of `apps`."""
    settings = Settings(
        supabase_url="http://127.0.0.1:1", supabase_publishable_key="sb_publishable_x", apps=apps
    )
    return whole_document(Services(settings))


def write_routes(document: Mapping[str, Any], *, more: str = "") -> str:
    """The text of a declaration file for the routes of `document`, with `more` at its top."""
    names = TypeNames(_with_whole_answers(document))
    routes = "".join(_routes(document, names))
    models = "".join(f"\n{text}\n" for text in names.declarations())
    return f"{_HEAD}{more}\nexport interface Routes {{\n{routes}}}\n{models}"


def _with_whole_answers(document: Mapping[str, Any]) -> dict[str, Any]:
    """The models, with every field of an answer required: a default is sent as well."""
    models = document["components"]["schemas"]
    taken = reached(
        [
            operation.get("requestBody", {})
            for operations in document["paths"].values()
            for operation in operations.values()
        ],
        models,
    )
    return {
        name: model if name in taken else {**model, "required": list(model.get("properties", ()))}
        for name, model in models.items()
    }


def _routes(document: Mapping[str, Any], names: TypeNames) -> Iterator[str]:
    for path, operations in sorted(document["paths"].items()):
        for method, operation in sorted(operations.items()):
            query = {
                one["name"]: one["schema"]
                for one in operation.get("parameters", ())
                if one["in"] == "query"
            }
            asked = names.type_of({"type": "object", "properties": query}) if query else "undefined"
            body = (
                _type_of(operation["requestBody"], names)
                if "requestBody" in operation
                else "undefined"
            )
            parts = (f"query: {asked}", f"body: {body}", f"answer: {_answer_of(operation, names)}")
            yield f'  "{method.upper()} {path}": {{ {"; ".join(parts)} }};\n'


def _answer_of(operation: Mapping[str, Any], names: TypeNames) -> str:
    """The type of what a success answers; `null` where there is no body."""
    answers = (
        "null" if status == "204" else _type_of(answer, names)
        for status, answer in operation["responses"].items()
        if status.startswith("2")
    )
    return " | ".join(dict.fromkeys(answers))


def _type_of(content: Mapping[str, Any], names: TypeNames) -> str:
    return names.type_of(content.get("content", {}).get(_JSON, {}).get("schema", {}))


if __name__ == "__main__":
    for path, text in written().items():
        path.write_text(text, "utf-8")
