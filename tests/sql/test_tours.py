"""The tours at the heads of the hot files: their functions exist, and are called in that order."""

from __future__ import annotations

import re

import pytest

from tests.support.paths import ROOT

MIGRATIONS = sorted((ROOT / "supabase" / "migrations").glob("*.sql"))
BODY = re.compile(r"^create function (\w+\.\w+)\((.*?)\n\$\$;", re.MULTILINE | re.DOTALL)
STEP = re.compile(r"^--( {3,})((?:queue|public)\.\w+)", re.MULTILINE)
BODIES = {name: body for path in MIGRATIONS for name, body in BODY.findall(path.read_text("utf-8"))}
TOURS = {
    path.stem.partition("_")[2]: steps
    for path in MIGRATIONS
    if (steps := STEP.findall(path.read_text("utf-8").partition("\ncreate ")[0]))
}


def calls(steps: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Who calls whom, as the indentation says."""
    found: dict[str, list[str]] = {}
    above: list[tuple[int, str]] = []
    for indent, name in steps:
        above = [(depth, caller) for depth, caller in above if depth < len(indent)]
        if above:
            found.setdefault(above[-1][1], []).append(name)
        above.append((len(indent), name))
    return found


def test_the_hot_files_open_with_a_tour() -> None:
    """Who reads forty functions wants to know where the first one is."""
    assert {"create_lease", "create_settle"} <= set(TOURS)


@pytest.mark.parametrize("file", sorted(TOURS))
def test_a_tour_names_functions_in_the_order_of_their_calls(file: str) -> None:
    """A map of streets that were moved is worse than none."""
    for caller, callees in calls(TOURS[file]).items():
        places = [BODIES[caller].find(f"{callee}(") for callee in callees]

        assert -1 not in places, (caller, callees[places.index(-1)])
        assert places == sorted(places), (caller, callees)
