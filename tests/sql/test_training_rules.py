"""The training app's rules in SQL: who reaches what, and what a stage and a chunk may be."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from pydantic import ValidationError

from minutehand.local.postgres import Postgres
from minutehand_apps.training.models import Procedure
from tests.support.databases import Database
from tests.support.engine import ACME, ADA, BOB, EVE, Engine
from tests.support.functions import (
    ROLES,
    as_user,
    as_worker,
    database_of_an_app,
    lease,
    open_to,
    rights,
    unkempt,
    until_waiting,
    users_of,
)

TABLES = [
    "trainings", "training_jobs", "training_stages", "training_chunks", "training_procedures",
]  # fmt: skip
VIEWS = ["background_jobs", "job_queue"]
CALLERS = {
    "training_start", "training_read", "training_list", "training_transcript",
    "training_procedure", "training_cancel", "training_retry", "training_save_procedure",
    "training_delete", "training_video", "training_transcribe", "training_stuck_jobs",
}  # fmt: skip
WORKER = {
    "training_load", "training_load_chunks", "training_store_stage", "training_store_chunk",
    "training_store_procedure", "training_store_stills", "training_note_host",
    "training_host_event",
}  # fmt: skip
TYPES = [
    "transcription", "sop_generation", "mux_upload", "training_chunk", "training_clean",
    "training_stills",
]  # fmt: skip


@pytest.fixture(scope="module")
def seeded(postgres: Postgres) -> Iterator[Database]:
    """A seeded database that knows the app's job types; tests look at trainings of their own."""
    with database_of_an_app(postgres, *TYPES) as database:
        yield database


def start(database: Database, user: str = ADA) -> dict[str, Any]:
    """Somebody hands a video in."""
    key = f"workspaces/{ACME}/{user}/{uuid.uuid4()}/x.mp4"
    made: dict[str, Any] = as_user(
        database, user, "select public.training_start(%s, 'Lamp', %s, 10)", ACME, key
    )
    with database.connect() as connection:
        rows = connection.execute(
            "select job_type, job_id::text from public.training_jobs where training_id = %s",
            (made["training_id"],),
        )
        return {**made, **dict(rows.fetchall())}


def test_grants_are_by_name(seeded: Database) -> None:
    """Members reach what asks for membership, the worker its own; nobody writes a table."""
    for role, allowed in {
        "anon": set(),
        "authenticated": CALLERS,
        "job_worker": WORKER,
        "service_role": CALLERS | WORKER,
    }.items():
        assert open_to(seeded, role, "public", "training_") == sorted(allowed), role
        reads = ["select"] if role in {"authenticated", "service_role"} else []
        for table in TABLES + VIEWS:
            more = ["delete"] if (role, table) == ("service_role", "background_jobs") else []
            assert rights(seeded, role, f"public.{table}") == more + reads, (role, table)
    assert [open_to(seeded, role, "training") for role in ROLES] == [[]] * len(ROLES)


def test_the_apps_own_schema_is_commented_and_closed(seeded: Database) -> None:
    """As the catalogue's test asks of public and queue."""
    assert (unkempt(seeded, "training"), users_of(seeded, "training")) == ([], [])


def test_only_ones_own_upload_is_taken(seeded: Database) -> None:
    """Whatever the path says: another person's, another workspace's, or none at all."""
    keys = [
        f"workspaces/{ACME}/{BOB}/{uuid.uuid4()}/x.mp4",
        f"workspaces/{ACME}/{ADA}/x.mp4",
        f"workspaces/{ACME}/{ADA}/a/../x.mp4",
        f"workspaces/{ACME}/training/{uuid.uuid4()}/0001.pcm",
        f"x/workspaces/{ACME}/{ADA}/a/x.mp4",
        f"workspaces/{ACME}/{ADA}/../{uuid.uuid4()}",
        f"workspaces/{ACME}/{ADA}/{uuid.uuid4()}/x\x01.mp4",
        f"workspaces/{ACME}/{ADA}/{uuid.uuid4()}/x.mp4\n",
    ]
    for key in keys:
        with pytest.raises(psycopg.Error) as caught:
            as_user(seeded, ADA, "select public.training_start(%s, 'x', %s, 10)", ACME, key)
        assert (caught.value.sqlstate, caught.value.diag.message_hint) == (
            "PT404", "upload_not_found",
        )  # fmt: skip
    with pytest.raises(psycopg.Error) as caught:
        as_user(seeded, EVE, "select public.training_start(%s, 'x', %s, 10)", ACME, keys[0])
    assert caught.value.diag.message_hint == "workspace_not_found"


def test_a_procedure_has_its_shape_from_a_model_or_rules(seeded: Database) -> None:
    """Past the API as well: one of another shape could be read by nobody any more."""
    made = start(seeded)
    held = lease(seeded, made["transcription"], "transcription")
    good = {"title": "Lamp", "steps": [{"title": "Off", "at_seconds": 1.5}]}
    step = {"title": "x", "at_seconds": 0}
    bad: list[Any] = [
        None, [], {}, {"title": "x"}, {**good, "title": ""}, {**good, "steps": []},
        {**good, "steps": [{**step, "at_seconds": 1e300}]}, {**good, "steps": [{"title": 1}]},
        {**good, "steps": [{**step, "at_seconds": "1"}]}, {**good, "more": 1},
        {**good, "steps": [step] * 201}, {**good, "materials": ["x" * 501]},
    ]  # fmt: skip
    save = "select public.training_save_procedure(%s, %s, %s)"
    author = {"author": "m", "offline": True}
    as_worker(seeded, "training_store_procedure", {**held, **author, "procedure": good})

    for each in bad:
        with pytest.raises(psycopg.Error) as caught:
            as_user(seeded, ADA, save, made["training_id"], 1, Jsonb(each))
        assert caught.value.diag.message_hint == "procedure_invalid", each
        with pytest.raises(psycopg.Error) as caught:
            as_worker(seeded, "training_store_procedure", {**held, **author, "procedure": each})
        assert caught.value.diag.message_hint == "procedure_invalid", each
        with pytest.raises(ValidationError):
            Procedure.model_validate(each, strict=True)
    # as large as its shape allows in most languages
    long = [{"title": "x", "detail": "ж" * 2000, "at_seconds": 1}] * 200
    saved = as_user(
        seeded, ADA, save, made["training_id"], 1, Jsonb({**good, "steps": long})
    )  # fmt: skip
    endless = {**good, "steps": [{**step, "detail": "🔧" * 2000}] * 200}
    with pytest.raises(psycopg.Error) as caught:
        as_user(seeded, ADA, save, made["training_id"], 2, Jsonb(endless))

    assert saved == {"version": 2, "wake": False}
    assert caught.value.diag.message_hint == "payload_too_large"


def test_what_the_host_was_sent_goes_with_a_training(seeded: Database) -> None:
    """Also what a job notes while it is being deleted: else nobody would know of it any more."""
    made = start(seeded)
    held = lease(seeded, made["transcription"], "transcription")

    def note(connection: psycopg.Connection[Any]) -> None:
        connection.execute("set local role job_worker")
        connection.execute(
            "select set_config('request.jwt.claims', %s, true)", ('{"role": "job_worker"}',)
        )
        connection.execute(
            "select public.training_note_host(%s)", (Jsonb({**held, "upload": "u1"}),)
        )

    with seeded.connect() as worker, ThreadPoolExecutor(1) as second:
        with worker.transaction():
            note(worker)
            deleted = second.submit(
                as_user, seeded, ADA, "select public.training_delete(%s)", made["training_id"]
            )
            until_waiting(seeded)
        deleted.result(timeout=60)
    with seeded.connect() as connection:
        found = connection.execute(
            "select payload from public.jobs where job_type = 'training_clean'"
            " and payload ->> 'training_id' = %s", (made["training_id"],),
        ).fetchone()  # fmt: skip

    assert found is not None
    assert (found[0]["host_upload"], found[0]["host"]) == ("u1", True)
    with pytest.raises(psycopg.Error) as caught:
        as_worker(seeded, "training_note_host", {**held, "upload": "u2"})
    assert caught.value.diag.message_hint == "training_not_found"


def test_a_finished_stage_is_never_written_again(seeded: Database) -> None:
    """Whoever repeats it, and whoever comes too late, changes nothing."""
    made = start(seeded)
    held = lease(seeded, made["transcription"], "transcription")
    first = {"name": "verify", "status": "completed", "result": {"bytes": 1}}
    as_worker(seeded, "training_store_stage", {**held, "stage": first})
    second = {"name": "verify", "status": "failed", "code": "x", "reason": "x"}

    again = as_worker(seeded, "training_store_stage", {**held, "stage": second})
    chunk = {
        "number": 1, "starts_at_seconds": 0, "ends_at_seconds": 1, "engine": "e",
        "offline": True, "segments": [{"start": 0, "end": 1, "text": "a"}],
    }  # fmt: skip
    as_worker(seeded, "training_store_chunk", {**held, "chunk": chunk})
    kept = as_worker(seeded, "training_store_chunk", {**held, "chunk": {**chunk, "segments": []}})

    assert (again["status"], again["result"]) == ("completed", {"bytes": 1})
    assert kept["segments"] == chunk["segments"]
    for bad in (
        {**first, "name": "other"},
        {"name": "audio", "status": "completed"},
        {"name": "audio", "status": "failed", "result": {}},
    ):
        with pytest.raises(psycopg.Error) as caught:
            as_worker(seeded, "training_store_stage", {**held, "stage": bad})
        assert caught.value.diag.message_hint == "stage_invalid"
    for function, more in (
        ("training_load", {}),
        ("training_load_chunks", {}),
        ("training_store_stage", {"stage": first}),
        ("training_store_chunk", {"chunk": chunk}),
        ("training_store_procedure", {"procedure": {}, "author": "x", "offline": True}),
        ("training_store_stills", {"stills": [1]}),
        ("training_note_host", {"upload": "x"}),
    ):
        with pytest.raises(psycopg.Error) as caught:
            as_worker(seeded, function, {**held, "fence": held["fence"] + 1, **more})
        assert caught.value.diag.message_hint == "lease_lost", function


def test_no_person_enqueues_the_stages_jobs(seeded: Database) -> None:
    """A clean-up with a path of one's choice would be a way to delete others' files."""
    made = start(seeded)
    for kind in TYPES:
        with pytest.raises(psycopg.Error) as caught:
            as_user(
                seeded, ADA, "select public.enqueue_job(%s, %s, %s)",
                ACME, kind, Jsonb({"training_id": made["training_id"]}),
            )  # fmt: skip
        assert caught.value.sqlstate == "PT403"


def test_rows_and_jobs_are_read_by_members_alone(seeded: Database) -> None:
    """The views show what the caller may see of jobs, not what their owner may."""
    made = start(seeded)
    for user, seen in ((ADA, 1), (BOB, 1), (EVE, 0)):
        for table in ("trainings", *VIEWS):
            statement = f"select count(*) from public.{table} where {{}} = %s"
            column, wanted = {
                "trainings": ("id", "training_id"),
                "job_queue": ("job_id", "transcription"),
            }.get(table, ("id", "transcription"))
            found = as_user(seeded, user, statement.format(column), made[wanted])
            assert found == seen, (user, table)
    for table in TABLES + VIEWS:
        with pytest.raises(
            (
                psycopg.errors.InsufficientPrivilege,
                psycopg.errors.ObjectNotInPrerequisiteState,  # a view of two tables
            )
        ):
            as_user(seeded, ADA, f"delete from public.{table} returning 1")


def test_the_service_deletes_ended_jobs_by_the_view(seeded: Database) -> None:
    """The guide's own clean-up; what runs stays, and a chunk goes with its job."""
    made, live = start(seeded), start(seeded)
    as_user(seeded, ADA, "select public.cancel_job(%s)", made["transcription"])
    with seeded.connect() as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update public.jobs set finished_at = now() - interval '31 days' where id = %s",
            (made["transcription"],),
        )
        connection.execute(
            "insert into public.jobs (workspace_id, job_type, queue, max_attempts, schema_version,"
            " status, outcome, parent_id, finished_at, completed_at)"
            " values (%s, 'training_chunk', 'default', 5, 1, 'completed', 'completed', %s,"
            " now(), now())",
            (ACME, made["transcription"]),
        )
    with seeded.connect() as connection, connection.transaction():
        claims = json.dumps({"role": "service_role"})
        connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        connection.execute("set local role service_role")
        gone = connection.execute(
            "delete from public.background_jobs where completed_at < now() - interval '30 days'"
            " and status in ('completed', 'failed', 'cancelled') returning id::text"
        ).fetchall()
        with pytest.raises(psycopg.Error) as caught, connection.transaction():
            connection.execute(
                "delete from public.background_jobs where id = %s", (live["transcription"],)
            )
        left = connection.execute(
            "select count(*) from public.jobs where parent_id = %s", (made["transcription"],)
        ).fetchone()

    assert gone == [(made["transcription"],)]
    assert left == (0,)
    assert (caught.value.sqlstate, caught.value.diag.message_hint) == ("PT409", "invalid_state")


def test_the_queue_is_in_the_order_of_leasing(seeded: Database) -> None:
    """By priority, then by age, as the view's reader would order it."""
    with seeded.connect() as connection:
        Engine(seeded, connection).operate("cancel", created_after="2000-01-01")
    made = [start(seeded) for _ in range(4)]
    for number, priority in ((2, 10), (3, 200)):
        statement = "update public.jobs set priority = %s where id = %s returning 1"
        as_user(seeded, ADA, statement, priority, made[number]["transcription"])
    with seeded.connect() as connection:
        wanted = [
            row[0] for row in connection.execute(
                "select job_id::text from public.job_queue order by priority, created_at"
            )
        ]  # fmt: skip
    request = {"worker_id": "w", "call": 1, "limit": 1, "job_types": TYPES[:3]}
    got = []
    for _ in wanted:
        answer = as_worker(seeded, "lease_jobs", {**request, "tick_id": str(uuid.uuid4())})
        got += [one["job"]["id"] for one in answer["leases"]]

    assert len(wanted) == 8
    assert got == wanted


def test_the_first_start_stays_and_a_retry_clears_the_failure(seeded: Database) -> None:
    """By whichever way it is run again; what is finished is not done again."""
    made = start(seeded)
    held = lease(seeded, made["mux_upload"], "mux_upload")
    as_worker(seeded, "training_load", held)
    failed = {"name": "publish", "status": "failed", "code": "host_refused", "reason": "no"}
    as_worker(seeded, "training_store_stage", {**held, "stage": failed})
    with seeded.connect() as connection:
        first = connection.execute(
            "select started_at from public.background_jobs where id = %s", (made["mux_upload"],)
        ).fetchone()
        item = {**held, "outcome": "failed", "error": {"message": "no"}}
    as_worker(seeded, "settle_jobs", {"items": [item]})
    as_user(seeded, ADA, "select public.retry_job(%s)", made["mux_upload"])
    again = lease(seeded, made["mux_upload"], "mux_upload")
    loaded = as_worker(seeded, "training_load", again)
    with seeded.connect() as connection:
        second = connection.execute(
            "select started_at, error_data from public.background_jobs where id = %s",
            (made["mux_upload"],),
        ).fetchone()

    assert first is not None
    assert second is not None
    assert second[0] == first[0]
    assert (loaded["generation"], loaded["stages"]) == (2, [])


def test_failed_jobs_go_after_thirty_days_too(seeded: Database) -> None:
    """By the engine's own retention, also when no operator set it."""
    with seeded.connect() as connection:
        found = connection.execute(
            "select distinct retention_days from queue.job_types where job_type = any (%s)",
            (TYPES,),
        ).fetchall()

    assert found == [({"completed": 30, "cancelled": 30, "failed": 30},)]


def test_a_job_that_is_pending_for_long_is_explained(seeded: Database) -> None:
    """With the engine's own reason, and to members alone."""
    made = start(seeded)
    statement = "select public.training_stuck_jobs(%s)"
    before = as_user(seeded, ADA, statement, ACME)["jobs"]
    with seeded.connect() as connection:
        connection.execute("set session_replication_role = replica")
        connection.execute(
            "update public.jobs set created_at = now() - interval '11 minutes' where id = %s",
            (made["transcription"],),
        )
    found = [
        one for one in as_user(seeded, ADA, statement, ACME)["jobs"]
        if one["job_id"] == made["transcription"]
    ]  # fmt: skip
    with pytest.raises(psycopg.Error) as caught:
        as_user(seeded, EVE, statement, ACME)

    assert made["transcription"] not in {one["job_id"] for one in before}
    assert [(one["title"], one["pending_seconds"] >= 660) for one in found] == [("Lamp", True)]
    assert found[0]["sentence"]
    assert caught.value.diag.message_hint == "workspace_not_found"


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://cdn.example.com/talk.mp3?sig=a%2Fb", True),
        ("https://cdn.example.com:443/talk.mp3", True),
        ("https://127.0.0.1/x", False),
        ("https://2130706433/x", False),
        ("https://0x7f.1/x", False),
        ("https://[::1]/x", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("https://localhost/x", False),
        ("https://metadata.google.internal/x", False),
        ("https://printer.local/x", False),
        ("https://intranet/x", False),
        ("https://user:pass@cdn.example.com/x", False),
        ("https://cdn.example.com:8443/x", False),
        ("http://cdn.example.com/x", False),
    ],
)
def test_a_recording_within_a_network_is_refused_at_once(
    seeded: Database, url: str, taken: bool
) -> None:
    """Before a job is spent on it; what a name resolves to is the worker's to check."""
    ask = "select public.training_transcribe(%s, gen_random_uuid(), 'Talk', %s)"
    if taken:
        assert as_user(seeded, ADA, ask, ACME, url)["created"]
        return
    with pytest.raises(psycopg.Error) as error:
        as_user(seeded, ADA, ask, ACME, url)

    assert (error.value.sqlstate, error.value.diag.message_hint) == ("PT422", "audio_url_refused")
