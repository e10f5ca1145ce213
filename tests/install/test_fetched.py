"""What is fetched from npm is there whole for every process that asked for it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infra.release.compatibility import fetch


@pytest.mark.parametrize("cut_off", [False, True])
def test_each_caller_gets_a_whole_package(tmp_path: Path, cut_off: bool) -> None:
    """Several at once on a machine that has nothing yet, or whose last install was cut off."""
    package, folder = tmp_path / "package", tmp_path / "fetched"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "fetched-one", "version": "1.0.0"}))
    if cut_off:
        (folder / "node_modules").mkdir(parents=True)

    def installed(_: int) -> bool:
        return (fetch(folder, str(package)) / "fetched-one" / "package.json").exists()

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(installed, range(3)))
