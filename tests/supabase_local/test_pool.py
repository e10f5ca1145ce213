"""The local Data API limits its connections as PostgREST does."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx

from infra.bench.scratch import user_token
from tests.support.patience import until
from tests.support.project import Project

WAITING = """
create function scratch_wait() returns void language sql
  set statement_timeout = '60s' set lock_timeout = 0
  as 'select pg_advisory_xact_lock(4711)';
"""


def test_one_caller_may_hold_every_connection(project: Project) -> None:
    """Slow calls may use all connections of the local Data API, and further calls are rejected."""
    project.sql(WAITING)
    call = f"{project.settings.supabase_url}/rest/v1/rpc/scratch_wait"
    key = project.settings.supabase_publishable_key
    ada = {"apikey": key, "authorization": f"Bearer {user_token()}"}

    def waiting() -> int:
        text = "select from pg_locks where locktype = 'advisory' and not granted"
        return len(lock.execute(text).fetchall())

    with project.database.connect() as lock, ThreadPoolExecutor(14) as threads:
        until(lambda: httpx.post(call, headers=ada, json={}).is_success)
        lock.execute("select pg_advisory_lock(4711)")
        calls = [threads.submit(httpx.post, call, headers=ada, json={}) for _ in range(12)]
        until(lambda: waiting() == 10)
        # Two of the twelve calls get no connection, and are rejected one after the other.
        until(lambda: sum(one.done() for one in calls) == 2)
        late = [one.result() for one in calls if one.done()]
        lock.execute("select pg_advisory_unlock(4711)")

        assert Counter(one.result().status_code for one in calls) == {204: 10, 504: 2}
        assert {one.json()["code"] for one in late} == {"PGRST003"}
