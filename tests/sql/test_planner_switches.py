"""Each setting of the planner that a function carries is in one table, with the test that reads."""

from __future__ import annotations

import re

from tests.support.databases import Database
from tests.support.paths import ROOT

MIGRATIONS = ROOT / "supabase" / "migrations"
#: What enqueues, leases, settles and publishes: told by decisions of its own.
HOT = re.compile(r"_(create_(enqueue|waiting|lease|settle)|budget_messages|publish_events)\.sql$")
SWITCH = re.compile(r"^set (enable_\w+|plan_cache_mode) = '?(\w+)'?", re.MULTILINE)
FUNCTION = re.compile(r"create function \w+\.(\w+)\((.*?)\nas \$", re.DOTALL)
ROW = re.compile(r"^\| (`.+`) \| ([a-z_, ]+) \| `(test_\w+)` \|$", re.MULTILINE)


def carried() -> dict[str, frozenset[str]]:
    """The switches of each function of the migrations that has any."""
    found = {}
    for path in sorted(MIGRATIONS.glob("*.sql")):
        if HOT.search(path.name):
            continue
        for name, head in FUNCTION.findall(path.read_text("utf-8")):
            switches = frozenset(
                value if switch == "plan_cache_mode" else switch.removeprefix("enable_")
                for switch, value in SWITCH.findall(head)
            )
            if switches:
                found[name] = switches
    return found


def test_no_plan_is_compiled_because_a_kind_of_plan_is_off(database: Database) -> None:
    """Before Postgres 18 what is off costs ten thousand million, and is compiled at each call."""
    with database.connect() as connection:
        rows = connection.execute(
            """
            select p.oid::regprocedure::text from pg_proc as p
            where 'jit=off' <> all (p.proconfig) and exists (
                select from unnest(p.proconfig) as c where c like 'enable%=off')
            """
        ).fetchall()

    assert rows == []


def test_the_table_of_planner_switches_is_that_of_the_migrations() -> None:
    """A switch that nobody can explain is never removed, and one that is missing never missed."""
    text = (ROOT / "supabase" / "DECISIONS.md").read_text("utf-8")
    rows = ROW.findall(text[text.index("## 36. Planner switches") :])
    told = {
        name: frozenset(switches.split(", "))
        for names, switches, _ in rows
        for name in re.findall(r"`(\w+)`", names)
    }

    assert told == carried()


def test_the_tests_that_the_table_names_are_there() -> None:
    """The name of a test says what would break."""
    text = (ROOT / "supabase" / "DECISIONS.md").read_text("utf-8")
    named = {test for _, _, test in ROW.findall(text[text.index("## 36. Planner switches") :])}
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "sql").glob("test_*.py"))

    assert {name for name in named if f"def {name}(" not in tests} == set()
