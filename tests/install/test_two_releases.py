"""`make compatibility` on two made-up releases: it goes through, and notices what would not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from infra.release.upgrades import Database, UpgradeFailed, try_upgrade
from infra.release.wheels import Environment, build_wheels, checkout_copy
from tests.install.projects import Hosted
from tests.install.second import SECOND, make_second_release


@pytest.fixture
def databases(hosted: Hosted) -> Iterator[Iterator[Database]]:
    """Empty hosted databases, as many as are asked for."""
    with ExitStack() as stack:

        def give() -> Iterator[Database]:
            while True:
                made = stack.enter_context(hosted.database())
                yield Database(made.url, made.push)

        yield give()


def test_workers_of_both_releases_run_on_both_schemas(
    environment: Environment, newer: Environment, databases: Iterator[Database], tmp_path: Path
) -> None:
    """With live jobs and a lease that is held through the upgrade."""
    lines = try_upgrade(environment, newer, tmp_path / "projects", databases)

    assert any("function minutehand_engine.greetings()" in line for line in lines)


def test_a_release_that_breaks_the_old_worker_is_noticed(
    environment: Environment, databases: Iterator[Database], tmp_path: Path
) -> None:
    """A proof that proves nothing would be worse than none."""
    copy = checkout_copy(tmp_path / "source")
    make_second_release(copy)
    added = copy / "supabase" / "migrations" / SECOND
    added.write_text(f"{added.read_text()}alter function public.settle_jobs rename to settled;\n")
    broken = Environment.make(tmp_path / "venv", build_wheels(copy, tmp_path / "wheels"))

    with pytest.raises(UpgradeFailed, match="settle_jobs"):
        try_upgrade(environment, broken, tmp_path / "projects", databases)
