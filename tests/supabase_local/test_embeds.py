"""Embedding in the local Data API: by keys, through views, and by computed relationships."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.patience import until
from tests.support.project import Project

TABLES = """
create table public.scratch_people (
  id int primary key, name text, chief int references public.scratch_people
);
create table public.scratch_tasks (
  id int primary key, title text,
  owner int constraint scratch_owner references public.scratch_people,
  checker int constraint scratch_checker references public.scratch_people
);
create table public.scratch_badges (
  person int references public.scratch_people, kind text, primary key (person, kind)
);
create table public.scratch_rooms (
  person int primary key references public.scratch_people, room text
);
create view public.scratch_staff as select id as number, name, chief from scratch_people;
create view public.scratch_todo as select t.id, t.title, t.owner as of from scratch_tasks as t;
create view public.scratch_of_todo as select id, title, of from scratch_todo;
create function public.scratch_latest(public.scratch_people) returns setof public.scratch_tasks
rows 1 language sql stable
as 'select * from scratch_tasks where owner = $1.id order by id desc limit 1';
insert into public.scratch_people values (1, 'Ada', null), (2, 'Eve', 1), (3, 'Bob', 1);
insert into public.scratch_tasks values (1, 'a', 1, 2), (2, 'b', 1, 1), (3, 'c', 2, null);
insert into public.scratch_badges values (1, 'x'), (1, 'y');
insert into public.scratch_rooms values (2, 'attic');
grant select, insert, update on all tables in schema public to service_role;
notify pgrst, 'reload schema';
"""


@pytest.fixture
def ask(project: Project) -> Iterator[Any]:
    """Query a table as the service."""
    project.sql(TABLES)
    settings = project.settings
    with httpx.Client(
        base_url=f"{settings.supabase_url}/rest/v1",
        headers={"apikey": settings.supabase_secret_key or ""},
    ) as client:
        until(lambda: client.get("/scratch_of_todo").status_code == 200)
        yield lambda table, **params: client.get(f"/{table}", params=params).json()


def test_rows_are_joined_by_their_keys_from_both_ends(ask: Any) -> None:
    """One row if the key is unique, otherwise a list. One of several keys is chosen by its name."""
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


def test_a_table_is_joined_to_itself(ask: Any) -> None:
    """Children by the table's name, and the parent by the column."""
    below = ask("scratch_people", select="scratch_people(name)", id="eq.1")
    above = ask("scratch_people", select="chief(name)", id="eq.2")

    assert below == [{"scratch_people": [{"name": "Eve"}, {"name": "Bob"}]}]
    assert above == [{"chief": {"name": "Ada"}}]


def test_a_view_has_the_keys_of_its_tables(ask: Any) -> None:
    """With the view's column names, and through a view of a view."""
    staff = ask("scratch_of_todo", select="title,scratch_staff(name)", order="id")
    todo = ask("scratch_staff", select="name,scratch_todo(title)", number="eq.1")
    room = ask("scratch_staff", select="scratch_rooms(room)", number="eq.2")

    assert staff[2] == {"title": "c", "scratch_staff": {"name": "Eve"}}
    assert todo == [{"name": "Ada", "scratch_todo": [{"title": "a"}, {"title": "b"}]}]
    assert room == [{"scratch_rooms": {"room": "attic"}}]


def test_a_function_of_a_row_is_a_relation(ask: Any) -> None:
    """One row if the function is declared so."""
    found = ask("scratch_people", select="name,scratch_latest(title)", order="id")

    assert [one["scratch_latest"] for one in found] == [{"title": "b"}, {"title": "c"}, None]


@pytest.mark.parametrize(
    ("asked", "accept", "code"),
    [
        ("id,...scratch_badges(kind)", "*/*", "PGRST000"),
        ("id", "text/csv", "PGRST000"),
        ("id", "application/geo+json", "PGRST000"),
        ("id", "application/vnd.pgrst.plan", "PGRST000"),
        ("id.count()", "*/*", "PGRST123"),
        ("count()", "*/*", "PGRST123"),
    ],
)
def test_what_is_left_out_is_refused_by_name(
    project: Project, asked: str, accept: str, code: str
) -> None:
    """The hint names `supabase start`. Aggregates are off on hosted projects too."""
    response = httpx.get(
        f"{project.settings.supabase_url}/rest/v1/jobs",
        params={"select": asked},
        headers={"apikey": project.settings.supabase_secret_key or "", "accept": accept},
    )

    assert response.json()["code"] == code
    assert (code == "PGRST123") != ("supabase start" in (response.json()["hint"] or ""))


@pytest.mark.parametrize(("offset", "status"), [(2, 206), (3, 206), (4, 416)])
def test_a_range_may_begin_behind_the_last_row_and_not_later(
    project: Project, offset: int, status: int
) -> None:
    """PostgREST accepts offset three for three rows, and rejects offset four."""
    project.sql(TABLES)
    url = f"{project.settings.supabase_url}/rest/v1/scratch_people"
    headers = {"apikey": project.settings.supabase_secret_key or "", "prefer": "count=exact"}
    until(lambda: httpx.get(url, headers=headers).is_success)

    response = httpx.get(url, params={"offset": offset}, headers=headers)

    assert response.status_code == status


@pytest.mark.parametrize(
    ("method", "header", "code"),
    [
        ("GET", {"accept": "application/vnd.pgrst.object+json"}, "PGRST116"),
        ("PATCH", {"prefer": "handling=strict,max-affected=2"}, "PGRST124"),
    ],
)
def test_more_rows_than_the_caller_accepts_are_an_error(
    project: Project, method: str, header: dict[str, str], code: str
) -> None:
    project.sql(TABLES)
    url = f"{project.settings.supabase_url}/rest/v1/scratch_people?id=gt.0"
    key = {"apikey": project.settings.supabase_secret_key or ""}
    until(lambda: httpx.get(url, headers=key).is_success)
    body = {"name": "x"} if method == "PATCH" else None

    response = httpx.request(method, url, headers={**key, **header}, json=body)

    assert response.json()["code"] == code
