"""Fixtures: a wheel of an invented next release, built once per run, and a database."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.release import releases
from infra.release.wheels import Environment, build_wheels
from minutehand.version import VERSION
from supabase_local.postgres import Postgres
from tests.install.projects import HostedDatabase, hosted_database
from tests.install.second import NEXT, SECOND_SQL, make_release
from tests.support.shared import made_once
from tests.support.stranger import environment_of


@pytest.fixture(scope="session")
def released(wheel: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only copy of the wheel's sources in which the current version is released."""

    def build(folder: Path) -> None:
        shutil.copytree(wheel / "source", folder, dirs_exist_ok=True)
        if VERSION not in releases.read(folder):
            make_release(folder, VERSION, postgres)

    return made_once(tmp_path_factory, "released", build)


@pytest.fixture(scope="session")
def texts(released: Path) -> list[str]:
    """The migrations of the next release. There are none if the current version is released."""
    made = releases.migrations(released).keys() - releases.migrations().keys()
    return [
        (released / name).read_text() for name in sorted(made, key=lambda name: Path(name).name)
    ]


@pytest.fixture(scope="session")
def newer(
    released: Path, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """A Python environment with the invented next release."""

    def build(folder: Path) -> None:
        source = shutil.copytree(released, folder / "source")
        with (source / "supabase/schemas/20_extensions.sql").open("a") as schema:
            schema.write(SECOND_SQL)
        make_release(source, NEXT, postgres)
        build_wheels(source, folder / NEXT)

    wheels = made_once(tmp_path_factory, "newer", build) / NEXT
    return environment_of(tmp_path_factory, wheels)


@pytest.fixture
def hosted(postgres: Postgres) -> Iterator[HostedDatabase]:
    """A database like that of a new hosted project."""
    with hosted_database(postgres) as made:
        yield made
