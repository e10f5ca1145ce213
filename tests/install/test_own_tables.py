"""Functions that `minutehand init … --reads … --writes …` writes for a project's own tables.

They find a row's tenant, and leave out certain columns.
"""

from pathlib import Path

import psycopg
import pytest

from minutehand.install.own_tables import own_tables
from minutehand.project import Project
from tests.support.engine import ACME, GLOBEX, Engine, handle
from tests.support.renewed import Renewed

TABLES = f"""
create table public.leads (id bigint generated always as identity primary key, size numeric,
  note text, workspace_id uuid not null, other bigint references public.leads (id));
insert into public.leads (workspace_id) values ('{ACME}'), ('{GLOBEX}');
create function public.moved() returns trigger language plpgsql as
  $$ begin if new.size = 0 then new.workspace_id := '{GLOBEX}'; end if; return new; end $$;
create trigger moved before update on public.leads for each row execute function public.moved();
"""


def test_a_row_of_the_jobs_tenant_is_read_and_written_and_no_other(
    renewed: Renewed, tmp_path: Path
) -> None:
    plan = own_tables(
        Project(root=tmp_path), tmp_path, "crm", "crm.sync", reads="leads", writes="leads"
    )
    files = {write.path.name: write.text for write in plan.files}
    [sql] = [text for name, text in files.items() if name.endswith(".sql")]
    with renewed.connect() as connection:
        engine = Engine(renewed, connection)
        engine.run(TABLES + sql)
        engine.register("crm.sync")

        def call(lead: int, **row: object) -> object:
            engine.enqueue({"lead_id": lead}, job_type="crm.sync")
            request = {**handle(engine.lease_one()), "row": row}
            return engine.rpc("sync_lead", p_request=request)

        row = {"id": 1, "size": 7, "note": "new", "workspace_id": ACME, "other": None}
        assert call(1, size=7, note="new", id=9, workspace_id=GLOBEX, other=2) == row
        assert call(2, size=7) is None
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            call(1, size=0)
        assert engine.rows("select size from leads order by id") == [7, None]
