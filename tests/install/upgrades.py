"""Projects with the migrations of earlier releases, and their upgrade to the current sources."""

import re
from collections.abc import Iterable
from pathlib import Path

from infra.release import releases
from minutehand.app import built_in
from minutehand.install.rewrite import Schemas, rewrite
from minutehand.install.sources import Source, sources_since, upgrade_migrations
from minutehand.install.tenancy import Tenants
from tests.support.paths import ROOT


def first_release(schemas: Schemas, tenants: Tenants) -> list[Source]:
    """Return the migrations that version 0.3.0 wrote into a project."""
    own = tenants.migration(schemas)
    engine = [
        Source(f"engine/{path.name}", rewrite(path.read_text(), schemas))
        for name in releases.read()["0.3.0"]
        if (path := ROOT / name).parent.parent.name == "supabase"
    ]
    return [*engine, *([Source("tenancy/own", own, editable=True)] if own else [])]


def upgrade(project: Path, texts: list[str], schemas: Schemas, *, release: str = "0.3.0") -> None:
    """Write the migrations of all releases after this one, and of the next release."""
    if texts:
        later = list(releases.read())[list(releases.read()).index(release) + 1 :]
        ours = [(ROOT / name).read_text() for name in files_of(later)]
        parts = [Source("engine/next.sql", rewrite(text, schemas)) for text in (*ours, *texts)]
    else:
        parts = sources_since(release, schemas, built_in(()))
    for number, each in enumerate(upgrade_migrations(parts, schemas, built_in(()))):
        write(project, each, name=f"2999123100000{number + 1}_next")


def files_of(versions: Iterable[str]) -> list[str]:
    """Return the migrations of these releases in the order in which they are applied."""
    names = (name for version in versions for name in releases.read()[version])
    return sorted(names, key=lambda name: Path(name).name)


def write(project: Path, parts: list[Source], *, name: str = "29991231000000_minutehand") -> None:
    """Write these sources into one migration, and the project's options, as an install does."""
    text = "-- Installed by minutehand 0.3.0.\n\n" + "\n".join(part.part for part in parts)
    for schema in re.findall(r"^create table (\w+)\.jobs ", text, re.MULTILINE):
        (project / "minutehand.toml").write_text(
            f'name = "bakery"\napps = ["jobs"]\nschema = "{schema}"\ntenancy = "workspaces"\n'
        )
    (project / f"supabase/migrations/{name}.sql").write_text(text)
