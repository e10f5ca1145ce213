"""Installs into projects of many shapes, a job by the project's own trigger, and the removal.

A trigger of the project enqueues the job, which changes a row by a function of the project. Only
the row's tenant can watch the job. After the removal, the database is as before. Upgrades are
tested in test_projects.py and test_releases.py.
"""

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.release.wheels import Environment
from minutehand.install.rewrite import Schemas
from tests.install.projects import WORK, Api, HostedDatabase, data_api
from tests.install.shapes import CORPUS, Shape
from tests.support.engine import ADA, EVE
from tests.support.stranger import write_files

WEEKLY = pytest.mark.weekly(only=True)
#: The shapes that every test run tests: tenants in our tables, and single users in a schema with
#: another name.
ALWAYS = {"our_workspaces", "api_schema"}

#: SQL that a project adds for its job: a trigger, and a function that the worker calls.
TRIGGER = """
create function public.corpus_enqueue() returns trigger language plpgsql
security definer set search_path = '' as $$
begin
  perform {schema}.enqueue_job({tenant}, 'corpus.touch', '{{"name": "Ada"}}');
  return null;
end $$;
create trigger corpus_enqueue after insert on {table}
for each row execute function public.corpus_enqueue();
create function public.corpus_touch(p_request jsonb) returns jsonb language plpgsql
security definer set search_path = '' as $$
declare
  v_job {schema}.jobs := {engine}.held_job(p_request, array['corpus.touch'], 'nothing was changed');
begin
  perform {engine}.refuse_revoked();
  update {table} as new set {sets} where {tenant} = v_job.workspace_id;
  return to_jsonb(found);
end $$;
select {engine}.allow('job_worker', 'public.corpus_touch');
"""
UNDO = """
drop trigger corpus_enqueue on {table};
drop function public.corpus_enqueue, public.corpus_touch;
"""
PROCESSOR = """
from pydantic import BaseModel

from minutehand.queue.functions import WorkerFunctions


class Touch(BaseModel):
    name: str


def register(registry, settings):
    database = WorkerFunctions(settings, schema="public")

    @registry.processor("corpus.touch", payload=Touch)
    async def touch(job, ctx):
        return {"touched": await database.call_held("corpus_touch", job.id, job.fence)}
"""


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=shape.name, marks=[WEEKLY] * (shape.name not in ALWAYS))
        for shape in map(Shape.read, sorted(CORPUS.glob("*.sql")))
    ],
)
def test_a_project_installs_works_and_leaves(
    shape: Shape, hosted: HostedDatabase, environment: Environment, tmp_path: Path
) -> None:
    """A project of each shape installs the engine, runs a job, and removes the engine."""
    write_files(tmp_path, shape.files)
    hosted.sign_up()
    hosted.apply(tmp_path)
    hosted.as_owner(shape.rows.get("seed", ""))
    before = hosted.everything()

    environment.minutehand(tmp_path, "install", *shape.install)
    hosted.apply(tmp_path)
    hosted.as_owner(TRIGGER.format(**names_of(shape)))
    hosted.as_owner(shape.rows.get("seed-after", ""))
    (tmp_path / "jobs/processors/touch.py").write_text(PROCESSOR)
    with data_api(hosted, shape.schema) as api:
        assert api.of(ADA).rows("jobs") == []
        watch_a_job(shape, hosted, api, lambda: environment.run(tmp_path, "-c", WORK, env=api.env))

    hosted.as_owner(f"delete from {shape.table}")
    hosted.as_owner(UNDO.format(**names_of(shape)))
    hosted.as_owner(environment.minutehand(tmp_path, "uninstall")["sql"])
    assert hosted.everything() == before


def names_of(shape: Shape) -> dict[str, str]:
    """Return the names with which the SQL scripts of this file are completed."""
    engine = Schemas(shape.schema).engine
    return {**vars(shape), "schema": shape.schema, "engine": engine}


def watch_a_job(
    shape: Shape, database: HostedDatabase, api: Api, work: Callable[[], object]
) -> None:
    """Insert a row, whose trigger enqueues a job.

    The row's tenant sees the job live, and another user does not.
    """
    ada, eve = api.of(ADA), api.of(EVE)
    database.as_owner(shape.rows["insert"])
    [job] = ada.rows("jobs")
    topic = f"job:{job['id']}"
    assert ada.rpc("follow_topic", topic=topic, follower_id=str(uuid.uuid4())).status_code == 200
    assert eve.rpc("follow_topic", topic=topic, follower_id=str(uuid.uuid4())).status_code == 404

    work()

    [done] = ada.rows("jobs")
    assert (done["status"], done["result"]) == ("completed", {"touched": True}), done
    assert "job.completed" in [event["type"] for event in ada.rows("job_events")]
    sent = "select count(*) > 0 from realtime.messages where topic = %s"
    assert database.run(sent, topic) == [(True,)]
    assert eve.rows("jobs") == eve.rows("job_events") == []
