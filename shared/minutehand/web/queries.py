"""Query parameters of lists: one that no one knows is refused by its name.

A filter with a typing error would match everything; probes and streams may carry what they like.
"""

from __future__ import annotations

import difflib

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from minutehand.web.errors import FieldProblem, validation_failed

#: A route that takes one of these is a list.
_PAGED = frozenset({"limit", "cursor"})


def refuse_unknown(request: Request) -> None:
    """422 for a list asked with a parameter that it does not take; a dependency of every route."""
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or not request.query_params:
        return
    known = _taken(route.dependant)
    if not known & _PAGED:
        return
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise validation_failed(
            [
                FieldProblem(field=name[:80], problem=_advice(name, known), location="query")
                for name in unknown
            ]
        )


def _taken(dependant: Dependant) -> set[str]:
    """The names a route and what it depends on take from the query."""
    names = {field.alias for field in dependant.query_params}
    return names.union(*(_taken(inner) for inner in dependant.dependencies))


def _advice(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}?" if near else f"it takes {', '.join(sorted(known))}"
    return f"is not a parameter of this list; {meant}"
