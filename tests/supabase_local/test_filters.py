"""Filters of the local Data API, compared with recorded responses and with Postgres."""

from typing import Any

import httpx
import pytest

from infra.truth import filters
from tests.support.patience import until
from tests.support.project import Project, project_of_a_file
from tests.support.renewed import Renewed

PARTS = """
create table scratch_parts (
  id int primary key, whole int references scratch_types, word text
);
insert into scratch_parts values (1, 1, '"a"'), (2, 1, 'a'), (3, 2, 'a');
grant select, update, delete on scratch_parts to service_role;
"""


@pytest.fixture(scope="module")
def project(process_database: Renewed) -> Project:
    """A project whose tables have columns of each type. One test changes `scratch_parts`."""
    made = project_of_a_file(process_database)
    made.sql(filters.TABLES + PARTS)
    return made


@pytest.fixture(autouse=True)
def _is_ready(rest: httpx.Client) -> None:
    until(lambda: rest.get("/scratch_parts").status_code == 200)


def test_a_filter_finds_what_the_real_server_finds(project: Project, rest: httpx.Client) -> None:
    """Each filter finds the rows that PostgREST finds."""
    assert len(filters.generate_filters()) > 700
    assert list(filters.compare_filters(rest, project.sql)) == []


def test_conditions_reach_embedded_rows_and_what_is_changed(
    project: Project, rest: httpx.Client
) -> None:
    """A filter with a path applies to the embedded table, in reads and in changes."""

    def ask(**params: str) -> Any:
        select = params.pop("select", "id,scratch_parts(id)")
        rows = rest.get("/scratch_types", params={"select": select, "order": "id", **params}).json()
        return {row["id"]: [part["id"] for part in row["scratch_parts"]] for row in rows}

    inner = "id,scratch_parts!inner(id)"
    either = '(word.eq."\\"a\\"",id.eq.3)'
    assert ask(**{"scratch_parts.word": 'eq."a"'}) == {1: [1], 2: [], 3: [], 4: []}
    assert ask(**{"select": inner, "scratch_parts.or": either}) == {1: [1], 2: [3]}
    assert rest.patch("/scratch_parts?word=eq.%22a%22", json={"id": 9}).status_code == 204
    assert rest.delete("/scratch_parts?or=(word.eq.a,id.eq.0)").status_code == 204
    assert project.sql("select id, word from scratch_parts") == [{"id": 9, "word": '"a"'}]


#: PostgREST's error code for each invalid filter.
REFUSED = {"number=in.1": "PGRST100", "or=(word.eq.1": "PGRST100", "other.word=eq.a": "PGRST108"}


def test_what_is_no_filter_is_refused(rest: httpx.Client) -> None:
    for text, code in REFUSED.items():
        name, _, value = text.partition("=")
        params = {"select": "id,scratch_parts(id)", name: value}

        answer = rest.get("/scratch_types", params=params)

        assert (answer.status_code, answer.json()["code"]) == (400, code)
        assert rest.head("/scratch_types", params=params).status_code == 400
