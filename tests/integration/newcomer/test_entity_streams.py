"""The page's stream of an entity, as printed: declared, served, resumed, ended."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from minutehand.docs import render, sql_blocks
from minutehand.install.rewrite import Schemas
from minutehand.worker import Registry
from tests.support.engine import EVE
from tests.support.harness import AppHarness
from tests.support.paths import ROOT
from tests.support.project import ACME, Project, project_of_a_room
from tests.support.renewed import Renewed

PAGE = (ROOT / "shared/minutehand/pages/app.md").read_text("utf-8")


@pytest.fixture(scope="module")
def project(renewed_project: Renewed) -> Project:
    """A database in which the page's SQL was run."""
    [sql] = sql_blocks(render(PAGE, Schemas(), tenant=ACME))
    made = project_of_a_room(renewed_project)
    with made.database.connect(user="postgres") as owner:
        owner.execute(sql.encode())
    made.run_sql("notify pgrst, 'reload schema'")
    return made


@pytest.fixture
def app(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppHarness:
    """The page's routes, as a newcomer's app."""
    [routes] = re.findall(r"```py\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "parcels_of_the_page").mkdir()
    (tmp_path / "parcels_of_the_page" / "__init__.py").touch()
    (tmp_path / "parcels_of_the_page" / "routes.py").write_text(routes)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = project.settings.model_copy(update={"apps": ("parcels_of_the_page",)})
    made = AppHarness(project, settings, Registry())
    made.below = "/api/parcels"
    return made


async def test_a_stream_of_ten_lines_resumes_and_ends(project: Project, app: AppHarness) -> None:
    """What a page shows and what a poller reads, for members alone."""
    [row] = project.rows("select id::text from public.parcels")
    stream = f"/{row['id']}/stream"
    async with app.open():
        as_json = {"Accept": "application/json"}

        async def is_known() -> bool:
            return (await app.call("GET", stream, headers=as_json)).status_code == 200

        await app.tick_until(is_known, bool)  # the Data API reads the new schema meanwhile
        page = (await app.call("GET", stream, headers=as_json)).json()
        project.run_sql(
            "select queue.append_entity_events('parcel', %s, '[{\"type\": \"parcel_filed\"}]')",
            row["id"],
        )
        project.run_sql("update public.parcels set status = 'filed', finished_at = now()")
        whole = await app.stream(stream)
        resumed = await app.stream(stream, **{"Last-Event-ID": "1"})
        over = await app.call("GET", stream, headers={"Last-Event-ID": "2"})
        strangers = await app.call("GET", stream, user=EVE)

    [written] = page["events"]
    assert (written["parcel_id"], written["seq"], written["data"]) == (row["id"], 1, {"grams": 700})
    assert (page["more"], page["ended"]) == (False, None)
    assert [(id_, event["type"]) for id_, event in whole] == [
        ("1", "parcel_weighed"), ("2", "parcel_filed"),
    ]  # fmt: skip
    assert whole[0][1] == written
    assert resumed == whole[1:]
    assert over.status_code == 204
    assert (strangers.status_code, strangers.json()["code"]) == (404, "parcel_not_found")
