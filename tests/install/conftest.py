"""The two made-up releases as wheels, and the real Supabase CLI; made once per run."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.release.supabase_cli import supabase_cli
from infra.release.wheels import Environment, build_wheels, checkout_copy
from minutehand.local.postgres import Postgres
from minutehand.version import VERSION
from tests.install.projects import Hosted
from tests.install.second import NEXT, make_second_release
from tests.support.shared import made_once


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders with the wheels of this release and of a made-up next one."""

    def build_both(folder: Path) -> None:
        copy = checkout_copy(folder / "source")
        build_wheels(copy, folder / VERSION)
        make_second_release(copy)
        build_wheels(copy, folder / NEXT)

    folder = made_once(tmp_path_factory, "wheels", build_both)
    return {version: folder / version for version in (VERSION, NEXT)}


@pytest.fixture(scope="session")
def environment(releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with this release."""
    return _environment(tmp_path_factory, releases[VERSION])


@pytest.fixture(scope="session")
def newer(releases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the next."""
    return _environment(tmp_path_factory, releases[NEXT])


def _environment(factory: pytest.TempPathFactory, wheels: Path) -> Environment:
    folder = made_once(
        factory,
        f"environment-{wheels.name}",
        lambda folder: Environment.make(folder / "venv", wheels),
    )
    return Environment(folder / "venv")


@pytest.fixture(scope="session")
def cli() -> Path:
    """The Supabase CLI, fetched from npm once per machine."""
    return supabase_cli()


@pytest.fixture
def hosted(postgres: Postgres, cli: Path) -> Hosted:
    """Makes databases as hosted projects have them, and pushes to them."""
    return Hosted(postgres, cli)
