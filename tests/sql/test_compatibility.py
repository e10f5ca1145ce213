"""What `make compatibility` compares databases by must notice what would differ."""

from __future__ import annotations

import pytest

from infra.release.catalogue import catalogue, differences
from tests.support.databases import Database


@pytest.mark.parametrize(
    "change",
    [
        "alter table public.jobs add column extra text",
        "alter table queue.leases alter column attempt drop not null",
        "alter table public.jobs set (fillfactor = 90)",
        "drop index public.jobs_by_parent",
        "alter table public.jobs drop constraint jobs_attempts_are_bounded",
        "drop trigger jobs_after_insert on public.jobs",
        'drop policy "members read jobs" on public.jobs',
        "grant execute on function queue.settle to public",
        "grant select on queue.leases to anon",
        "alter table queue.leases disable row level security",
        "alter function queue.settle(queue.worker_item[]) security definer",
        "comment on column public.jobs.id is null",
    ],
)
def test_a_catalogue_shows_any_difference(database: Database, change: str) -> None:
    """Equal catalogues are only worth what they would notice."""
    before = catalogue(database.url)
    with database.connect() as connection:
        connection.execute(change.encode())

    found = differences(before, catalogue(database.url))

    assert found
    assert all(line[0] in "-+" for line in found)
