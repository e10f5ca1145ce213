"""The planner's settings: few, each in one table, with the test that reads by it."""

from __future__ import annotations

import re

import pytest

from tests.support.databases import Database
from tests.support.paths import ROOT

TABLE = (
    (ROOT / "supabase" / "DECISIONS.md").read_text("utf-8").partition("## 36. Planner settings")[2]
)
ROWS = re.findall(r"^\| (`.+`) \| ([a-z, ]+) \| `(test_\w+)` \|$", TABLE, re.MULTILINE)


@pytest.fixture
def carried(database: Database) -> dict[str, set[str]]:
    """The settings of each function that has any, as the table names them."""
    with database.connect() as connection:
        rows = connection.execute(
            """
            select p.proname, array_agg(case when c like 'plan%'
              then substring(c from '_([a-z]+)_plan$') else substring(c from '([a-z]+)=') end)
            from pg_proc as p, unnest(p.proconfig) as c
            where p.pronamespace::regnamespace::text in ('public', 'queue')
              and (c ~ '^enable_\\w+=off$' or c ~ '^(plan_cache_mode|jit)=') group by 1
            """
        )
        return {name: set(settings) for name, settings in rows}


def test_the_table_of_planner_settings_is_that_of_the_catalogue(
    carried: dict[str, set[str]],
) -> None:
    """A setting that nobody can explain is never removed, and one that is missing never missed."""
    told = {
        name: set(settings.split(", "))
        for names, settings, _ in ROWS
        for name in re.findall(r"`(\w+)`", names)
    }

    assert told == {name: settings - {"jit"} for name, settings in carried.items()}
    assert sum(map(len, carried.values())) <= 40


def test_no_plan_is_compiled_because_a_kind_of_plan_is_off(carried: dict[str, set[str]]) -> None:
    """Before Postgres 18 what is off costs ten thousand million, and is compiled at each call."""
    compiled = {
        name for name, settings in carried.items() if settings - {"generic", "custom", "jit"}
    }

    assert {name for name in compiled if "jit" not in carried[name]} == set()


def test_the_tests_that_the_table_names_are_there() -> None:
    """The name of a test says what would break."""
    files = [*(ROOT / "tests/sql").glob("test_*.py"), *(ROOT / "tests/contract").glob("test_*.py")]
    tests = "".join(path.read_text("utf-8") for path in files)

    assert {test for *_, test in ROWS if f"def {test}(" not in tests} == set()
