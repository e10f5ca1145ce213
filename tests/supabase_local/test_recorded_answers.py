"""The local Data API responds as PostgREST 16 and 14 do, except for listed differences."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from infra.bench.scratch import Gateway
from infra.truth.requests import DataApi, compare, find_reason, find_version, listed_reasons
from supabase_local.ports import reserve_port
from tests.support.patience import until
from tests.support.project import Project

CROSS = """
create function public.scratch_cross(p_first int, p_second int) returns void language plpgsql as $$
begin
  perform pg_advisory_xact_lock(p_first);
  perform pg_advisory_xact_lock_shared(4711);
  perform pg_advisory_xact_lock(p_second);
end $$;
"""


@pytest.fixture(params=["16", "14"])
def versioned(
    request: pytest.FixtureRequest, project: Project, place: DataApi
) -> Iterator[DataApi]:
    """The project behind one Data API process for each PostgREST version."""
    project.sql(CROSS)
    gateway = Gateway(project.database.url, reserve_port(), version=request.param)
    gateway.start()
    yield dataclasses.replace(place, rest_url=f"{gateway.url}/rest/v1")
    gateway.stop()


def test_only_listed_answers_differ_and_each_of_them_does(versioned: DataApi) -> None:
    """Each response equals the recorded one of PostgREST, or is listed as a difference."""
    found = compare(versioned)

    assert [each for each in found if find_reason(each.name) is None] == []
    assert {find_reason(each.name) for each in found} == set(listed_reasons().values())


def test_a_deadlock_reaches_the_caller_of_version_16_alone(
    project: Project, versioned: DataApi
) -> None:
    """Version 16 returns a deadlock to the caller. Version 14 repeats the transaction."""

    def call(first: int, second: int) -> httpx.Response:
        return client.post("/rpc/scratch_cross", json={"p_first": first, "p_second": second})

    def waiting() -> int:
        text = "select from pg_locks where locktype = 'advisory' and not granted"
        return len(gate.execute(text).fetchall())

    service = versioned.headers("service")
    with (
        httpx.Client(base_url=versioned.rest_url, headers=service, timeout=60) as client,
        project.database.connect() as gate,
        ThreadPoolExecutor(2) as threads,
    ):
        is_16 = find_version(client, versioned) == 16
        gate.execute("select pg_advisory_lock(4711)")
        calls = [threads.submit(call, *pair) for pair in ((1, 2), (2, 1))]
        until(lambda: waiting() == 2)
        gate.execute("select pg_advisory_unlock(4711)")
        answers = [one.result() for one in calls]

    assert Counter(one.status_code for one in answers) == ({204: 1, 500: 1} if is_16 else {204: 2})
    assert [one.json()["code"] for one in answers if one.is_error] == ["40P01"] * is_16
