"""A project of one test: settings, a new database, and its Data API."""

from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from infra.bench.scratch import scratch_settings
from minutehand.config import Settings
from tests.support.databases import Database
from tests.support.engine import ACME, Json
from tests.support.renewed import Renewed


@dataclass
class Project:
    settings: Settings
    database: Database

    def sql(self, statement: str, *args: Any) -> list[Json]:
        cursor = self.database.session().cursor(row_factory=dict_row)
        cursor.execute(statement.encode(), args, prepare=False)  # tests may change tables
        return cursor.fetchall() if cursor.description else []

    def row(self, job_id: str) -> Json:
        [row] = self.sql("select * from jobs where id = %s", job_id)
        return row

    def insert(self, job_type: str, payload: Any = None, **columns: Any) -> str:
        """Enqueue a job with a plain INSERT."""
        values = {
            "workspace_id": ACME,
            "job_type": job_type,
            "payload": Jsonb(payload or {}),
            "status": "pending",
            **columns,
        }
        names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
        insert = f"insert into jobs ({names}) values ({marks}) returning id"
        [row] = self.sql(insert, *values.values())
        return str(row["id"])

    def expire(self) -> None:
        """Let every lease expire, as if its worker had died."""
        self.sql("update queue.leases set expires_at = queue.clock() - interval '1 second'")
        self._let_run("reclaim")

    def make_due(self, job_id: str | None = None) -> None:
        """End every backoff, snooze and delay, or that of one job.

        During the change, triggers are off, because they reject such changes by an owner. The job's
        two rows get the same time, because the engine finds one by the other's time.
        """
        self.sql(
            "with quiet as (select set_config('session_replication_role', 'replica', true) as by,"
            "  queue.clock() - interval '1 second' as at),"
            " due as (update queue.deferred set run_at = at from quiet"
            " where by = 'replica' and is_place and job_id = coalesce(%s, job_id)"
            " returning job_id, run_at)"
            " update jobs as j set next_retry_at = due.run_at from due"
            " where j.status = 'pending' and j.id = due.job_id",
            job_id,
        )
        self._let_run("promotion")

    def _let_run(self, task: str) -> None:
        """Make a maintenance task due for the next call."""
        self.sql("update queue.tasks set done_at = '-infinity' where name = %s", task)


def project_of_a_file(renewed: Renewed, *, guests: bool = False) -> Project:
    """Return the process's project after the seeds, for a file whose tests create their own rows.

    Args:
        renewed: The database, which nothing else in the file may reset.
        guests: Whether the database and the settings allow guests.
    """
    renewed.renew()
    allowed = {"allow_anonymous": guests}
    made = Project(scratch_settings(renewed.gateway.url, **allowed), renewed)
    made.sql("select set_settings(%s)", Jsonb(allowed))
    # all of a file's jobs run within seconds, which a fast machine sends faster than a plan allows
    made.sql(
        "update queue.settings set value = '1000000' where name = 'realtime_messages_per_second'"
    )
    return made
