"""One release after the other in a foreign project, with live jobs and both releases' workers.

Release n is installed and pushed by the real Supabase CLI, then n+1. Workers of each run against
the schema of the other, a lease taken before the upgrade is settled after it, and the upgraded
database must hold what a fresh install of n+1 makes.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from infra.bench.scratch import JWT_SECRET, PUBLISHABLE_KEY, SECRET_KEY, Gateway
from infra.release.catalogue import catalogue, differences
from infra.release.wheels import Environment
from minutehand.install.rewrite import Schemas
from minutehand.local.ports import reserve_port

SCHEMAS = Schemas("minutehand")
WORKSPACE = "11111111-1111-4111-8111-111111111111"
#: A worker that runs until nothing is due.
WORK = """\
import asyncio, os
from minutehand.config import Settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker import TickOptions, Worker
from minutehand.worker.testing import drain


async def main():
    settings = Settings.from_env(os.environ)
    options = TickOptions(concurrency=5, linger_seconds=0)
    worker = Worker(settings, registry=load_processors(settings), options=options)
    await worker.register()
    await drain(worker)
    await worker.aclose()


asyncio.run(main())
"""


class UpgradeFailed(Exception):
    """The two releases do not get along; the message says where."""


@dataclass(frozen=True)
class Database:
    """An empty hosted database: its superuser's URL, and how to push to it."""

    url: str
    push: Callable[[Path], str]


@dataclass
class Project:
    """A foreign project on its way from one release to the next."""

    folder: Path
    database: Database
    env: Mapping[str, str]

    def work(self, release: Environment) -> None:
        """Let a worker of a release run what is due."""
        release.run(self.folder, "-c", WORK, env=dict(self.env))

    def ask(self, statement: str, *values: Any) -> Any:
        """The first value that a statement gives."""
        with psycopg.connect(self.database.url, autocommit=True) as connection:
            found = connection.execute(statement.encode(), values)
            row = found.fetchone() if found.description else None
        return row[0] if row else None

    def enqueue(self, name: str) -> str:
        """Enqueue one greeting."""
        call = "select minutehand.enqueue_job(%s, 'jobs.hello', %s)"
        return str(self.ask(call, WORKSPACE, Jsonb({"name": name}))["job"]["id"])

    def lease(self) -> Mapping[str, Any]:
        """Take the one due job as a worker would that continues through the upgrade."""
        request = {"worker_id": "held", "tick_id": str(uuid.uuid4()), "call": 1, "limit": 1}
        call = "select minutehand.lease_jobs(%s)"
        [lease] = self.ask(call, Jsonb({**request, "job_types": ["jobs.hello"]}))["leases"]
        return {**lease, "tick_id": request["tick_id"]}

    def settle(self, lease: Mapping[str, Any]) -> None:
        """Report the leased job as done."""
        item = {"job_id": lease["job"]["id"], "fence": lease["fence"], "outcome": "completed"}
        request = {"worker_id": "held", "tick_id": lease["tick_id"], "items": [item]}
        try:
            done = self.ask("select minutehand.settle_jobs(%s)", Jsonb(request))
        except psycopg.Error as error:
            raise UpgradeFailed(f"a worker of before the upgrade cannot settle: {error}") from error
        if done["results"][0]["outcome"] != "applied":
            raise UpgradeFailed(f"a lease taken before the upgrade did not settle after it: {done}")

    def expect_completed(self, job_id: str, by: str) -> None:
        """Refuse a job that did not end.

        Raises:
            UpgradeFailed: Naming whose worker left it.
        """
        found = "select status || coalesce(': ' || error_message, '') from minutehand.jobs"
        if (status := self.ask(f"{found} where id = %s", job_id)) != "completed":
            raise UpgradeFailed(f"{by} left a job {status}")


def try_upgrade(
    old: Environment, new: Environment, folder: Path, databases: Iterator[Database]
) -> list[str]:
    """Go from one release to the next; return the catalogue at the end.

    Args:
        databases: Gives empty hosted databases.

    Raises:
        UpgradeFailed: Something did not hold.
    """
    folder.mkdir(parents=True)
    with _project(old, folder / "upgraded", next(databases)) as project:
        project.work(old)  # registers the type
        first = project.enqueue("first")
        project.work(old)
        project.expect_completed(first, "the old worker on the old schema")
        early = project.enqueue("early")
        project.work(new)
        project.expect_completed(early, "the new worker on the old schema")
        held = project.enqueue("held")
        lease = project.lease()
        waiting = project.enqueue("waiting")
        added = new.minutehand(project.folder, "upgrade")["written"]
        if "up to date" in project.database.push(project.folder) and added:
            raise UpgradeFailed("supabase db push does not see what the upgrade added")
        project.settle(lease)
        project.expect_completed(held, "a worker that went on through the upgrade")
        project.work(old)
        project.expect_completed(waiting, "the old worker on the new schema")
        last = project.enqueue("last")
        project.work(new)
        project.expect_completed(last, "the new worker on the new schema")
        upgraded = catalogue(project.database.url, SCHEMAS)
    with _project(new, folder / "fresh", next(databases)) as project:
        fresh = catalogue(project.database.url, SCHEMAS)
    if found := differences(fresh, upgraded):
        shown = "\n".join(line[:300] for line in found[:10])
        raise UpgradeFailed(f"a fresh install differs from an upgraded one:\n{shown}")
    return upgraded


def worker_environment(gateway: Gateway) -> dict[str, str]:
    """What a worker of a foreign project reads."""
    return {
        "SUPABASE_URL": gateway.url,
        "SUPABASE_PUBLISHABLE_KEY": PUBLISHABLE_KEY,
        "SUPABASE_SECRET_KEY": SECRET_KEY,
        "SUPABASE_JWT_SECRET": JWT_SECRET,
        "MINUTEHAND_APPS": "jobs",
        "MINUTEHAND_SCHEMA": gateway.schema,
    }


@contextmanager
def _project(release: Environment, folder: Path, database: Database) -> Iterator[Project]:
    folder.mkdir()
    release.minutehand(folder, "install", "--yes")
    database.push(folder)
    gateway = Gateway(database.url, reserve_port(), schema=SCHEMAS.clients)
    gateway.start()
    project = Project(folder, database, worker_environment(gateway))
    project.ask("insert into minutehand.workspaces (id, name) values (%s, 'Acme')", WORKSPACE)
    try:
        yield project
    finally:
        gateway.stop()
