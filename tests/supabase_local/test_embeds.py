"""Embedded rows in the local Data API, and PostgREST's features that it rejects by name."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.patience import until
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed

TABLES = """
create table scratch_people (
  id int primary key, name text, chief int references scratch_people
);
create table scratch_tasks (
  id int primary key, title text,
  owner int constraint scratch_owner references scratch_people,
  checker int constraint scratch_checker references scratch_people
);
create table scratch_badges (
  person int references scratch_people, kind text, primary key (person, kind)
);
create table scratch_rooms (
  person int primary key references scratch_people, room text
);
create table scratch_teams (
  id int primary key, lead int constraint scratch_lead references scratch_people
);
create table scratch_members (
  team int constraint scratch_team references scratch_teams,
  person int constraint scratch_person references scratch_people,
  primary key (team, person)
);
create view scratch_staff as select id, name from scratch_people;
create table scratch_tags (id int primary key);
create table scratch_tagged (
  task int references scratch_tasks, tag int references scratch_tags, primary key (task, tag)
);
create function scratch_latest(scratch_people) returns setof scratch_tasks
rows 1 language sql stable
as 'select * from scratch_tasks where owner = $1.id order by id desc limit 1';
create function scratch_word(json) returns json language sql stable as 'select $1';
insert into scratch_people values (1, 'Ada', null), (2, 'Eve', 1), (3, 'Bob', 1);
insert into scratch_tasks values (1, 'a', 1, 2), (2, 'b', 1, 1), (3, 'c', 2, null);
insert into scratch_badges values (1, 'x'), (1, 'y');
insert into scratch_rooms values (2, 'attic');
grant select, insert, update on all tables in schema public to service_role;
notify pgrst, 'reload schema';
"""


@pytest.fixture(scope="module")
def project(process_database: Renewed) -> Project:
    """A project whose tables the tests of this file read."""
    made = project_of_a_file(process_database)
    made.sql(TABLES)
    return made


@pytest.fixture
def ask(rest: httpx.Client) -> Callable[..., Any]:
    """Send a request to the Data API as the service."""
    until(lambda: rest.get("/scratch_tagged").status_code == 200)
    return lambda table, **params: rest.get(f"/{table}", params=params).json()


def test_rows_are_joined_by_their_keys_from_both_ends(ask: Any) -> None:
    """A foreign key embeds rows in both directions.

    A unique key embeds one row, and another key embeds a list.
    """
    tasks = ask("scratch_tasks", select="id,scratch_people!scratch_owner(name)", id="eq.3")
    ambiguous = ask("scratch_tasks", select="id,scratch_people(name)")
    people = ask("scratch_people", select="name,scratch_rooms(room)", order="id", limit="2")

    assert tasks == [{"id": 3, "scratch_people": {"name": "Eve"}}]
    assert ask("scratch_tasks", select="owner(name)", id="eq.3") == [{"owner": {"name": "Eve"}}]
    assert (ambiguous["code"], len(ambiguous["details"])) == ("PGRST201", 2)
    assert "scratch_people!scratch_checker" in ambiguous["hint"]
    assert people == [
        {"name": "Ada", "scratch_rooms": None},
        {"name": "Eve", "scratch_rooms": {"room": "attic"}},
    ]


def test_a_key_and_a_join_table_to_the_same_table_are_ambiguous(ask: Any) -> None:
    """A table that is related by a foreign key and by a join table can be embedded only by name."""
    ambiguous = ask("scratch_teams", select="id,scratch_people(name)")

    assert ambiguous["code"] == "PGRST201"
    assert ambiguous["details"][1] == {
        "cardinality": "many-to-many",
        "embedding": "scratch_teams with scratch_people",
        "relationship": "scratch_members using scratch_team(team) and scratch_person(person)",
    }
    assert "'scratch_people!scratch_lead', 'scratch_people!scratch_members'" in ambiguous["hint"]
    assert ask("scratch_teams", select="scratch_people!scratch_lead(name)") == []


def test_a_table_is_joined_to_itself(ask: Any) -> None:
    """A table may have a foreign key to itself.

    Its name embeds the children, the column's name the parent.
    """
    below = ask("scratch_people", select="scratch_people(name)", id="eq.1")
    above = ask("scratch_people", select="chief(name)", id="eq.2")

    assert below == [{"scratch_people": [{"name": "Eve"}, {"name": "Bob"}]}]
    assert above == [{"chief": {"name": "Ada"}}]


#: The method, path and headers of requests that PostgREST answers and the local server does not.
LEFT_OUT: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "scratch_people?select=id,...scratch_badges(kind)", {}),
    ("GET", "scratch_people?select=scratch_latest(title)", {}),
    ("GET", "scratch_staff?select=scratch_tasks(title)", {}),
    ("GET", "scratch_tasks?select=scratch_tags(id)", {}),
    ("GET", "scratch_people?select=id,scratch_badges(kind)&scratch_badges=is.null", {}),
    ("GET", "scratch_tasks?order=scratch_people(name)", {}),
    ("GET", "scratch_people?name=fts.ada", {}),
    ("GET", "scratch_people?id=eq(any).{1,2}", {}),
    ("GET", "scratch_people", {"accept": "text/csv"}),
    ("GET", "scratch_people", {"accept": "application/vnd.pgrst.plan"}),
    ("GET", "scratch_people", {"range": "0-1"}),
    ("GET", "scratch_people", {"prefer": "count=planned"}),
    ("GET", "scratch_people", {"prefer": "timezone=UTC"}),
    ("PUT", "scratch_people?id=eq.1", {}),
    ("POST", "scratch_people", {"content-type": "text/csv"}),
    ("GET", "rpc/scratch_word", {}),
    ("POST", "rpc/scratch_word", {}),
]


def test_what_is_left_out_is_refused_by_name(rest: httpx.Client, ask: Any) -> None:
    """A request for a feature that the local Data API lacks gets 501.

    The hint names `supabase start`.
    """
    for method, path, headers in LEFT_OUT:
        json = {"content-type": "application/json", **headers}
        response = rest.request(method, path, headers=json, content="{}")

        assert (path, response.status_code, response.json()["code"]) == (path, 501, "PGRST000")
        assert "supabase start" in response.json()["hint"]


def test_the_root_may_be_asked_for_by_its_own_type(rest: httpx.Client) -> None:
    """The root of the Data API accepts the Accept header that type generators send.

    Tables reject it.
    """
    accept = {"accept": "application/openapi+json"}

    root, table = (rest.get(f"/{name}", headers=accept) for name in ("", "jobs"))

    assert (root.status_code, root.json()["swagger"], table.status_code) == (200, "2.0", 406)


def test_aggregates_are_off_as_on_hosted_projects(ask: Any) -> None:
    for aggregate in ("id.count()", "count()"):
        assert ask("scratch_people", select=aggregate)["code"] == "PGRST123"


def test_a_range_may_begin_behind_the_last_row_and_not_later(rest: httpx.Client, ask: Any) -> None:
    """For three rows, offset three returns an empty list, and offset four an error."""
    counted = {"prefer": "count=exact, constructor=ignored"}

    found = [rest.get(f"/scratch_people?offset={at}", headers=counted) for at in (2, 3, 4)]

    assert [one.status_code for one in found] == [206, 206, 416]


def test_more_rows_than_the_caller_accepts_are_an_error(ask: Any, rest: httpx.Client) -> None:
    """A change that affects more rows than the caller allows is rolled back."""
    several, single = "/scratch_people?id=gt.0", {"accept": "application/vnd.pgrst.object+json"}

    read = rest.get(several, headers=single)
    changed = rest.patch(several, headers=single, json={"name": "x"})

    assert [one.json()["code"] for one in (read, changed)] == ["PGRST116", "PGRST116"]
    assert ask("scratch_people", name="eq.x") == []
