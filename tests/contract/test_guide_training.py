"""The guide "Background Processing Testing Guide", run against the whole stack."""

import hashlib
import json
import os
import struct
from pathlib import Path

import httpx
import pytest

from tests.contract.conftest import Sql
from tests.contract.guide import SAMPLE, Json, bash, ended, first_sentence
from tests.support.stacks import RunningStack

pytestmark = pytest.mark.timeout(900)
JOB_TYPES = ["transcription", "mux_upload", "sop_generation"]


def process(stack: RunningStack) -> Json:
    printed = bash(
        f"curl -s -X POST {stack.api_url}/api/jobs/process"
        f' -H "Authorization: Bearer {stack.background_job_token}"'
        ' -H "Content-Type: application/json"'
        """ -d '{"jobTypes": ["transcription", "sop_generation"]}'"""
    )
    return json.loads(printed)


def upload(portal: httpx.Client, stack: RunningStack, content: bytes) -> Json:
    """Upload a recording in parts, as the web page does. Return the completed upload."""
    body = {
        "workspace_id": stack.demo_workspace_id,
        "filename": "changing-the-paper.mp4",
        "content_type": "video/mp4",
        "size": len(content),
    }
    made = portal.post("/api/uploads", json=body)
    assert made.status_code == 201, made.text
    path, size = f"/api/uploads/{made.json()['id']}", made.json()["part_bytes"]
    for number in made.json()["missing"]:
        piece = content[(number - 1) * size : number * size]
        part = {"part_number": number, "checksum": hashlib.sha256(piece).hexdigest()}
        [signed] = portal.post(f"{path}/parts", json={"parts": [part]}).json()["parts"]
        sent = httpx.put(signed["url"], content=piece, headers=signed["headers"])
        assert sent.status_code == 200, sent.text
    done = portal.post(f"{path}/complete", json={"checksum": hashlib.sha256(content).hexdigest()})
    assert done.status_code == 200, done.text
    return done.json()


def test_1_to_3_jobs_and_results(
    portal: httpx.Client, sql: Sql, stack: RunningStack, tmp_path: Path
) -> None:
    """An upload starts the jobs, and each job completes with its output data in the database."""
    training = upload(portal, stack, first_sentence(tmp_path))["training"]
    user_id = sql("select created_by from trainings where id = %s", training["id"])[0][0]
    created = sql(
        """
        SELECT job_type, status, created_at
        FROM background_jobs
        WHERE user_id = %s
        ORDER BY created_at DESC;""",
        user_id,
    )
    processed = process(stack)
    path = f"/api/trainings/{training['id']}"
    state = ended(portal, path)

    # The procedure's job may already exist, because it is created when the transcription ends.
    assert {row[0] for row in created[:3]} >= {"transcription", "mux_upload"}
    assert processed["success"] is True
    assert (state["status"], state["progress_percentage"]) == ("completed", 100), state["reason"]
    assert {job["job_type"] for job in state["jobs"]} == set(JOB_TYPES)
    results = sql("""
        SELECT job_type, status, progress_percentage, output_data
        FROM background_jobs
        WHERE status IN ('processing', 'completed')
        ORDER BY started_at DESC;""")
    mine = {row[0]: row for row in results if row[3] and row[3]["training_id"] == training["id"]}
    assert {name: row[1:3] for name, row in mine.items()} == dict.fromkeys(
        JOB_TYPES, ("completed", 100)
    )
    transcript = portal.get(f"{path}/transcript").json()
    assert (transcript["complete"], transcript["language"]) == (True, "en")
    assert "turn off the power" in transcript["text"]
    assert state["procedure"]["offline"] is True  # without a model, there is no procedure
    assert state["procedure"]["procedure"] is None
    video = portal.get(f"{path}/video").json()
    assert "X-Amz-Expires=300&" in video["url"]
    assert httpx.get(video["url"], headers={"Range": "bytes=0-9"}).status_code == 206


def test_the_schema_is_there(sql: Sql) -> None:
    """The views `background_jobs` and `job_queue` have the columns that the guide queries."""
    sql("SELECT * FROM background_jobs LIMIT 1;")
    sql("SELECT * FROM job_queue LIMIT 1;")
    sql("SELECT * FROM job_queue ORDER BY priority, created_at;")
    sql("""
        SELECT * FROM background_jobs
        WHERE status = 'processing'
        ORDER BY started_at;""")
    sql("""
        SELECT * FROM background_jobs
        WHERE status = 'pending'
          AND created_at < NOW() - INTERVAL '10 minutes';""")


def test_4_what_failed_says_why(portal: httpx.Client, sql: Sql, stack: RunningStack) -> None:
    """A file that is not a video fails permanently with a reason. A user can retry the training.

    The guide's DELETE statement removes only jobs that ended more than 30 days ago.
    """
    training = upload(portal, stack, b"this is no video at all")["training"]
    path = f"/api/trainings/{training['id']}"
    state = ended(portal, path)
    failed = sql("""
        SELECT job_type, status, retry_count, error_data
        FROM background_jobs
        WHERE status = 'failed'
        ORDER BY completed_at DESC;""")
    for_good = sql("""
        SELECT job_type, error_data, retry_count
        FROM background_jobs
        WHERE status = 'failed'
          AND retry_count >= max_retries;""")
    retried = portal.post(f"{path}/retry")

    assert state["status"] == "failed"
    assert "not a video" in state["reason"]
    assert {row[0] for row in failed} >= {"transcription", "mux_upload"}
    assert all(row[3]["message"] for row in failed)
    assert len(for_good) == len(failed)
    assert retried.status_code == 200, retried.text
    assert ended(portal, path)["status"] == "failed"
    deleted = sql("""
        DELETE FROM background_jobs
        WHERE completed_at < NOW() - INTERVAL '30 days'
          AND status IN ('completed', 'failed', 'cancelled')
        RETURNING 1;""")
    assert deleted == []
    sql("delete from background_jobs where training_id = %s", training["id"])
    assert sql("select 1 from background_jobs where training_id = %s", training["id"]) == []


def test_5_cancelled_jobs_stop(portal: httpx.Client, sql: Sql, stack: RunningStack) -> None:
    """A client starts a transcription job as the guide prints. A cancellation stops all jobs."""
    done = upload(portal, stack, SAMPLE.read_bytes())
    training = done["training"]
    path = f"/api/trainings/{training['id']}"
    body = {
        "user_id": str(sql("select created_by from trainings where id = %s", training["id"])[0][0]),
        "company_id": stack.demo_workspace_id,
        "audio_url": done["key"],
    }
    created = portal.post(f"{path}/transcription", json=body)
    assert created.status_code == 201, created.text
    job_id = created.json()["job_id"]
    assert isinstance(job_id, str)
    assert sql("select job_type from background_jobs where id = %s", job_id) == [("transcription",)]
    cancelled = portal.post(f"{path}/cancel")
    state = ended(portal, path)
    rows = sql("""
        SELECT job_type, status, completed_at
        FROM background_jobs
        WHERE status = 'cancelled'
        ORDER BY completed_at DESC;""")

    assert cancelled.status_code == 200, cancelled.text
    assert state["status"] == "cancelled"
    stopped = {job["job_type"] for job in state["jobs"] if job["status"] == "cancelled"}
    assert stopped  # on a fast machine, some jobs complete before the cancellation
    assert stopped <= {row[0] for row in rows}
    assert all(row[2] is not None for row in rows)


@pytest.mark.weekly
def test_recordings_at_once_and_a_large_file_in_parts(
    portal: httpx.Client, sql: Sql, stack: RunningStack, tmp_path: Path
) -> None:
    """Two videos are processed concurrently. One is uploaded in parts.

    It has more than 100 MB in `make weekly`, and two parts in `make test`.
    """
    padding = (101 if "WEEKLY" in os.environ else 9) * 1024 * 1024
    sentence = first_sentence(tmp_path)
    large = sentence + struct.pack(">I4s", padding, b"free") + bytes(padding - 8)
    ids = [upload(portal, stack, each)["training"]["id"] for each in (large, sentence)]
    states = [ended(portal, f"/api/trainings/{id}") for id in ids]

    assert [state["status"] for state in states] == ["completed"] * 2, states
    assert states[0]["media"]["bytes"] == len(large)
    times = sql("""
        SELECT
          job_type,
          AVG(EXTRACT(EPOCH FROM (completed_at - started_at))) as avg_duration_seconds,
          COUNT(*) as job_count
        FROM background_jobs
        WHERE completed_at IS NOT NULL
        GROUP BY job_type;""")
    assert {row[0] for row in times} == set(JOB_TYPES)
