"""The guide "F044-A: Background Jobs & Enrichment Testing", run against the whole stack."""

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.contract.conftest import Sql
from tests.contract.guide import Json, bash
from tests.support.patience import until
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.usefixtures("acme_key")

TOKEN = "dev-secret-token"
LOGS = [
    "Starting enrichment for account",
    "Fetching workspace settings",
    "Initializing Apollo client",
    "Enriching with domain",
    "Processing enrichment data",
    "Updating account record",
    "Account enrichment completed successfully",
]
#: The commands for which each table must have a row-level security policy.
POLICIES = {
    "jobs": {"SELECT", "INSERT", "UPDATE"},
    "job_logs": {"SELECT"},
    "workspace_settings": {"SELECT", "ALL"},
}


@pytest.fixture
def account(sql: Sql, stack: RunningStack) -> str:
    [(made,)] = sql(
        "insert into accounts (workspace_id, name, domain) values (%s, 'Guide', %s) returning id",
        stack.demo_workspace_id,
        f"{uuid.uuid4().hex[:12]}.example",
    )
    return str(made)


@pytest.fixture
def job_id(portal: httpx.Client, account: str) -> str:
    """Request the enrichment of an account, as the page's button does. Return the job's id."""
    answer = portal.post(f"/api/accounts/{account}/enrich")
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def worker(stack: RunningStack, *, method: str = "POST", token: str = TOKEN) -> Json:
    printed = bash(
        f"curl -s -X {method} {stack.api_url}/api/jobs/worker"
        f' -H "Authorization: Bearer {token}" -H "Content-Type: application/json"'
    )
    return json.loads(printed)


def when(sql: Sql, status: str, *ids: str, what: str = "1") -> Any:
    """Wait until all given jobs have a status. Return the queried columns of these jobs."""
    query = f"select {what} from jobs where id = any (%s::uuid[]) and status = %s"
    return until(lambda: (rows := sql(query, list(ids), status))[len(ids) - 1 :] and rows)


def test_1_configure_the_apollo_key(portal: httpx.Client, sql: Sql, stack: RunningStack) -> None:
    """A manager stores and tests the Apollo key. The database contains only the encrypted key."""
    path = f"/api/workspaces/{stack.demo_workspace_id}/settings"
    saved = portal.put(path, json={"apollo_api_key": "test-key-12345"})
    tested = portal.post(f"{path}/test-connection")

    assert saved.json()["apollo_api_key"] == {"configured": True, "last4": "2345"}
    assert (tested.json()["ok"], tested.json()["credits_remaining"]) == (True, 1000)
    rows = sql("""
        SELECT
          workspace_id,
          apollo_api_key_encrypted IS NOT NULL as has_key,
          apollo_auto_enrich,
          enrichment_credits_used
        FROM workspace_settings;""")
    [mine] = [each for each in rows if str(each[0]) == stack.demo_workspace_id]
    assert mine[1] is True


def test_2_to_5_job_logs_and_account(
    sql: Sql, stack: RunningStack, account: str, job_id: str
) -> None:
    given = worker(stack)
    assert given["success"] is True
    assert {"duration_ms", "worker_id", "timestamp"} <= set(given)
    when(sql, "completed", job_id)
    response = f"Processing job {job_id} (type: enrich_account)"
    terminal = stack.folder / "launcher.out"
    until(lambda: response in terminal.read_text(errors="replace"))

    [newest] = sql("""
        SELECT id, job_type, status, payload, created_at FROM jobs
        WHERE job_type = 'enrich_account'
        ORDER BY created_at DESC
        LIMIT 1;""")
    executions = sql("""
        SELECT id, job_type, status, progress, started_at, completed_at, error_message
        FROM jobs
        WHERE job_type = 'enrich_account'
        ORDER BY created_at DESC
        LIMIT 5;""")
    logs = sql(
        """
        SELECT log_level, message, metadata, created_at
        FROM job_logs
        WHERE job_id = %s
        ORDER BY created_at ASC;""",
        job_id,
    )
    [shown] = sql(
        """
        SELECT
          id,
          name,
          domain,
          industry,
          employee_count,
          annual_revenue,
          city,
          state,
          country,
          enriched_at,
          metadata->>'apollo_enriched_at' as apollo_enriched_at
        FROM accounts
        WHERE id = %s;""",
        account,
    )

    assert (str(newest[0]), newest[3]["account_id"]) == (job_id, account)
    assert (executions[0][2], executions[0][3]["percentage"]) == ("completed", 100)
    assert executions[0][6] is None
    for (_, message, *_), expected in zip(logs, LOGS, strict=True):
        assert message.startswith(expected)
    assert (shown[3], shown[4], shown[6]) == ("Technology", 50, "San Francisco")
    assert None not in shown[9:]


def test_6_a_failing_job_is_retried_and_given_up(sql: Sql, stack: RunningStack) -> None:
    """A job inserted by SQL for a missing account fails and is retried later.

    A job with a single attempt fails immediately with the reason.
    """
    insert = """
        INSERT INTO jobs (workspace_id, job_type, payload, status)
        VALUES (
          '%s',
          'enrich_account',
          '{"account_id": "00000000-0000-0000-0000-000000000000",
            "domain": "nonexistent.fake"}'::jsonb,
          'pending'
        ) returning id"""
    [(job_id,)] = sql(insert % stack.demo_workspace_id)
    [(last,)] = sql(
        "insert into jobs (workspace_id, job_type, payload, status, max_attempts)"
        " values (%s, 'enrich_account', %s, 'pending', 1) returning id",
        stack.demo_workspace_id,
        json.dumps({"account_id": "00000000-0000-0000-0000-000000000000"}),
    )
    worker(stack)
    when(sql, "failed", last)
    until(lambda: sql("select 1 from jobs where id = %s and next_retry_at is not null", job_id))

    rows = sql("""
        SELECT
          id,
          status,
          attempts,
          max_attempts,
          next_retry_at,
          error_message
        FROM jobs
        WHERE payload->>'account_id' = '00000000-0000-0000-0000-000000000000';""")
    by_id = {each[0]: each for each in rows}
    assert by_id[job_id][1:4] == ("pending", 1, 5)
    assert by_id[last][1:4] == ("failed", 1, 1)
    assert all("Account not found" in each[5] for each in (by_id[job_id], by_id[last]))


def test_7_progress_comes_while_it_runs(sql: Sql, stack: RunningStack, job_id: str) -> None:
    """The events of a job contain its progress percentage in rising order, up to 100.

    Realtime publishes the tables `jobs` and `job_logs`.
    """
    worker(stack)
    when(sql, "completed", job_id)
    given = sql(
        "select (data -> 'progress' ->> 'percentage')::float from job_events"
        " where job_id = %s and data ? 'progress' order by seq",
        job_id,
    )
    published = sql(
        "select tablename from pg_publication_tables where pubname = 'supabase_realtime'"
        " and tablename in ('jobs', 'job_logs')"
    )

    shown = [at for (at,) in given if at]
    assert shown == sorted(shown)
    assert shown[-1] == 100
    assert len(published) == 2


def test_8_the_guides_loop_is_taken_literally(sql: Sql, stack: RunningStack) -> None:
    """The guide's shell loop enqueues ten jobs for accounts that do not exist.

    Each job's error message says that the account was not found.
    """
    token = stack.sign_in(stack.demo_email)
    printed = bash(f"""
        supabase() {{ echo {token}; }}
        for i in {{1..10}}; do
          curl -s -X POST {stack.api_url}/api/jobs \\
            -H "Authorization: Bearer $(supabase auth token)" \\
            -H "Content-Type: application/json" \\
            -d '{{
              "workspace_id": "{stack.demo_workspace_id}",
              "job_type": "enrich_account",
              "payload": {{
                "account_id": "account-'$i'",
                "domain": "example'$i'.com"
              }}
            }}'
          echo
        done""")
    ids = [json.loads(line)["id"] for line in printed.split("\n") if line.strip()]
    assert len(ids) == 10
    worker(stack)
    response = "select error_message from jobs where id = any (%s::uuid[])"
    until(lambda: all(str(why).startswith("Account not found") for (why,) in sql(response, ids)))
    counted: dict[str, int] = dict(
        sql("""
        SELECT status, COUNT(*) as count
        FROM jobs
        WHERE created_at > NOW() - INTERVAL '5 minutes'
        GROUP BY status;""")
    )
    assert counted["pending"] >= 10


def test_9_worker_health_and_a_wrong_token(stack: RunningStack) -> None:
    """The worker's health check reports "healthy" to a valid token.

    A wrong token gets "Unauthorized".
    """
    given = worker(stack, method="GET")
    wrong = worker(stack, method="GET", token="wrong")

    assert given["status"] == "healthy"
    assert given["worker_id"]
    assert set(given["environment"]) >= {"region", "env"}
    assert wrong["error"] == "Unauthorized"


def test_the_policies_are_those_that_the_guide_expects(sql: Sql) -> None:
    policies = sql("""
        SELECT schemaname, tablename, policyname, permissive, roles, cmd, qual
        FROM pg_policies
        WHERE tablename IN ('jobs', 'job_logs', 'workspace_settings');""")

    for table, expected in POLICIES.items():
        assert expected <= {policy[5] for policy in policies if policy[1] == table}, table


def test_twenty_jobs_at_once(portal: httpx.Client, sql: Sql, stack: RunningStack) -> None:
    used = "select enrichment_credits_used from workspace_settings where workspace_id = %s"
    [(before,)] = sql(used, stack.demo_workspace_id)
    accounts = sql(
        "insert into accounts (workspace_id, name, domain)"
        " select %s, 'Many', md5(random()::text) || '.example' from generate_series(1, 20)"
        " returning id",
        stack.demo_workspace_id,
    )
    ids = [portal.post(f"/api/accounts/{id}/enrich").json()["id"] for (id,) in accounts]
    worker(stack)
    when(sql, "completed", *ids)

    assert sql(used, stack.demo_workspace_id) == [(before + 20,)]
