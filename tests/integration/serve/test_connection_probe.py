"""A worker probes its DATABASE_URL and changes nothing there.

The tests use a real PgBouncer in each mode, whose port does not reveal the mode.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from minutehand.queue.connection_probe import AddressProbe, probe
from tests.integration.serve.test_serve import served
from tests.support.engine import ACME
from tests.support.patience import until
from tests.support.pgbouncer import pooled
from tests.support.renewed import Renewed
from tests.support.stacks import RunningStack

OWN = AddressProbe(sessions=True, notifications=True, role=True)
#: The expected result of a probe, by mode and number of sessions.
MODES: list[tuple[str, int, AddressProbe]] = [
    ("session", 20, OWN),
    ("transaction", 20, AddressProbe()),
    ("transaction", 1, AddressProbe()),
    ("statement", 20, AddressProbe()),
]


@pytest.mark.parametrize(("mode", "sessions", "expected"), MODES)
def test_what_an_address_keeps_is_asked_of_it(
    renewed: Renewed, tmp_path: Path, mode: str, sessions: int, expected: AddressProbe
) -> None:
    with pooled(renewed.url, tmp_path, mode=mode, sessions=sessions) as url:
        assert asyncio.run(probe(url)) == expected
    assert asyncio.run(probe(renewed.url)) == OWN


def test_a_role_that_may_not_become_the_workers_is_named(renewed: Renewed) -> None:
    """The address answers, but its worker could call nothing."""
    with renewed.connect() as owner:
        owner.execute("create role address_test login password 'p'")
    port = urlsplit(renewed.url).port
    stranger = asyncio.run(probe(f"postgresql://address_test:p@127.0.0.1:{port}/{renewed.name}"))
    with renewed.connect() as owner:
        owner.execute("drop role address_test")

    assert (stranger.role, stranger.sessions) == (False, True)
    assert stranger.fault
    assert stranger.fault[0] == "signs in a role that may not become job_worker"


def roles_of(url: str, sessions: int) -> set[Any]:
    """Return the users of this number of consecutive sessions."""
    found = set()
    for _ in range(sessions):
        with closing(psycopg.connect(url, autocommit=True, prepare_threshold=None)) as session:
            [row] = session.execute("select current_user").fetchall()
        found.add(row[0])
    return found


def lines_of(log: Path) -> Iterator[dict[str, Any]]:
    """Return the JSON lines of a process's log."""
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            yield json.loads(line)


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_served_worker_says_what_it_uses_and_its_pooler_is_as_before(
    stack: RunningStack, tmp_path: Path, mode: str
) -> None:
    """Jobs of plain SQL run without a call of this worker. No other session is changed."""
    own = urlsplit(stack.database_url).username
    insert = "insert into public.jobs (workspace_id, job_type, payload) values (%s, %s, %s)"
    payload = json.dumps({"name": "Ada"})
    with pooled(stack.database_url, tmp_path, mode=mode) as url, stack.connect() as session:
        known = "select count(*) from queue.job_types where job_type = 'served.greet'"
        left = "select count(*) from public.jobs where job_type = 'served.greet'"
        left += " and status <> 'completed'"
        with served(stack, tmp_path, DATABASE_URL=url):
            until(lambda: session.execute(known).fetchone() == (1,))
            for _ in range(40):
                session.execute(insert, (ACME, "served.greet", payload))
            until(lambda: session.execute(left).fetchone() == (0,))
            beside = roles_of(url, 20)
        after = roles_of(url, 20)

    assert beside == after == {own}
    events = [each for each in lines_of(tmp_path / "serve.log") if each.get("event")]
    response = [each for each in events if each["event"].startswith("worker.")]
    assert response[0]["event"] == "worker.address"
    assert response[0]["sessions"] is (mode == "session")
    assert ("transaction mode" in response[0]["message"]) is (mode == "transaction")
    assert [each for each in events if each["level"] == "ERROR"] == []
