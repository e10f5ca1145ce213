"""A declared schema makes the same database as the migrations, so that a diff drops nothing."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from infra.release.catalogue import catalogue, differences
from infra.release.wheels import Environment
from minutehand.install.rewrite import Schemas
from supabase_local.postgres import Postgres
from tests.install.projects import Hosted

pytestmark = [pytest.mark.timeout(600), pytest.mark.weekly(only=True)]
TABLES = {
    "schemas/1_people/organizations.sql": (
        "create table public.organizations (id uuid primary key, name text not null);\n"
    ),
    "schemas/2_memberships.sql": (
        "create table public.memberships (organization_id uuid references public.organizations (id)"
        ", user_id uuid, role text, primary key (organization_id, user_id));\n"
    ),
}
TENANTS = (
    *("--organizations", "organizations(id,name)"),
    *("--memberships", "memberships(organization_id,user_id,role)"),
)
CONFIG = 'project_id = "shop"\n\n[api]\nschemas = ["public", "minutehand"]\n'


@pytest.fixture
def hosted(postgres: Postgres) -> Hosted:
    """A server for databases like those of hosted projects."""
    return Hosted(postgres, Path())


@pytest.fixture
def project(environment: Environment, tmp_path: Path) -> Path:
    """A project whose tables are declared, with a migration of the declarations."""
    files = {
        **TABLES,
        "migrations/20250101120000_create.sql": "".join(TABLES.values()),
        "config.toml": CONFIG,
    }
    for name, text in files.items():
        path = tmp_path / "supabase" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_declared_schema_drops_nothing_of_ours(
    project: Path, environment: Environment, hosted: Hosted
) -> None:
    """With the line that `install` prints, the declared database equals the migrated database."""
    [note] = environment.minutehand(project, "install", *TENANTS)["notes"][-1:]
    config = project / "supabase" / "config.toml"
    [line] = re.findall(r"^ +(schema_paths = .*)$", note, re.MULTILINE)
    config.write_text(f"{config.read_text()}\n[db.migrations]\n{line}\n")
    assert environment.minutehand(project, "install")["notes"] == []
    with hosted.database() as migrated, hosted.database() as declared:
        migrated.apply(project)
        for path in declared_files(project):
            declared.as_owner(path.read_text())
        assert migrated.everything() == declared.everything()
        schemas = Schemas("minutehand")
        assert differences(*(catalogue(each.url, schemas) for each in (migrated, declared))) == []


def declared_files(project: Path) -> list[Path]:
    """List the files of `schema_paths` as the CLI does: by pattern, each file once.

    A pattern without a match fails the test.
    """
    home = project / "supabase"
    config = tomllib.loads((home / "config.toml").read_text())
    files: dict[Path, None] = {}
    for pattern in config["db"]["migrations"]["schema_paths"]:
        matches = sorted(home.glob(pattern))
        assert matches, pattern
        files |= dict.fromkeys(matches)
    return list(files)
