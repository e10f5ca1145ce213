"""A project that leaves out the package's webhooks at the install, or removes them later."""

import re
from pathlib import Path

import psycopg
import pytest

from infra.release.catalogue import catalogue, differences
from minutehand.app import find_apps
from minutehand.config import ConfigurationError
from minutehand.install.catalog import find_drifts, read_record
from minutehand.install.removal import removal_sql
from minutehand.install.rewrite import Schemas
from minutehand.project import Project
from supabase_local.postgres import Postgres
from tests.install.projects import HostedDatabase, hosted_database, install
from tests.support.paths import ROOT

SCHEMAS = Schemas("minutehand")
PAGE = ROOT / "shared/minutehand/webhooks/README.md"


def state(database: HostedDatabase) -> list[str]:
    """Return the objects of a database and the rows of a new install."""
    return catalogue(database.url, SCHEMAS)


def test_webhooks_are_left_out_or_taken_out_without_a_trace(
    postgres: Postgres, tmp_path: Path
) -> None:
    """A project installed without webhooks equals one whose webhooks the page's SQL removed.

    Maintenance works without them.
    """
    [removal] = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)
    with hosted_database(postgres) as one, hosted_database(postgres) as other:
        before = one.everything()
        install(tmp_path / "without", "minutehand", without=("-minutehand.webhooks",))
        install(tmp_path / "with", "minutehand")
        one.apply(tmp_path / "without")
        other.apply(tmp_path / "with")
        project = Project.at(tmp_path / "without")
        assert any("put_webhook" in line for line in state(other))
        other.as_owner(removal)

        assert differences(state(one), state(other)) == []
        left = [re.sub("--.*", "", line) for line in state(one)]  # comments may name webhooks
        assert [line for line in left if "webhook" in line] == []
        [(done,)] = one.run("select minutehand.run_maintenance()")
        [(explained,)] = one.run("select minutehand.explain_queue()")
        waits = "select set_config('request.path', '/rpc/cancel_job', true), %s"
        waits %= "minutehand_engine.limit_wait(100), current_setting('lock_timeout')"
        assert one.run(waits)[0][-1] == "100ms"
        reasons = [finding["reason"] for finding in explained["findings"]]
        assert (done["failed"], reasons) == ([], ["no_worker"])
        with psycopg.connect(one.url, autocommit=True) as session:
            recorded = read_record(SCHEMAS, [])
            assert recorded is not None
            assert find_drifts(session, SCHEMAS, recorded) == []

        assert project.environment["MINUTEHAND_APPS"] == "jobs,-minutehand.webhooks"
        one.as_owner(removal_sql(project.root))
        assert one.everything() == before


def test_an_app_of_the_package_is_found_unless_it_is_taken_out() -> None:
    """An app is left out by its import name, and a misspelt name raises an error."""
    assert [app.name for app in find_apps([])] == ["webhooks"]
    assert find_apps(["-minutehand.webhooks"]) == []
    chat = "minutehand_apps.chat"
    assert chat not in [app.package for app in find_apps(["minutehand_apps.*", f"-{chat}"])]
    with pytest.raises(ConfigurationError, match="leaves out 'webhooks'"):
        find_apps(["-webhooks"])
