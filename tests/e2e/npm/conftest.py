"""Fixtures: the packed npm package, and a project that uses it."""

import tarfile
from pathlib import Path

import pytest

from infra.release.npm_archive import build_npm_archive
from tests.e2e.console.conftest import browser
from tests.e2e.npm.stranger import REACTS, Stranger
from tests.support.shared import made_once

__all__ = ["browser"]


#: The module of the project's client, under the names of the examples and of the tests.
SUPABASE = """\
import { createClient } from "@supabase/supabase-js";
export const supabase = createClient("http://x", "k");
export { supabase as client };
"""


@pytest.fixture(scope="session")
def npm_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the npm package, built as `make dist` does."""
    [archive] = made_once(tmp_path_factory, "npm-archive", build_npm_archive).iterdir()
    return archive


@pytest.fixture(scope="session")
def unpacked(npm_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the archive's files."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(npm_archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


@pytest.fixture(scope="session")
def stranger(npm_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A new npm project with the package and its dependencies."""
    types = [f"types-react-{version}@npm:@types/react@{version}" for version in REACTS]
    others = ["solid-js@1", "svelte@5", "vue@3"]
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "supabase.ts").write_text(SUPABASE)
    return Stranger.make(folder, npm_archive, *types, *others)
