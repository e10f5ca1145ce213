"""The local worker, which ends when a file of its apps changes, and is then started again."""

import asyncio
import sys
from pathlib import Path

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.local.hot_reload import end_on_change, files_of, reload_folders


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("another.py", []),
        ("lambda.yml", ["lambda.yml changed; start `minutehand dev` again to use its variables"]),
    ],
)
async def test_a_change_ends_the_worker(
    name: str,
    hints: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A change of an app's file during the import of its processors ends the worker."""
    app = tmp_path / "reloaded"
    app.mkdir()
    for module in ("__init__", "processors"):
        (app / f"{module}.py").touch()
    monkeypatch.setattr("minutehand.local.hot_reload.SCAN_SECONDS", 0)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "reloaded", raising=False)
    settings = scratch_settings(apps=("reloaded",))
    ended = asyncio.Event()
    loaded = files_of(reload_folders(settings))

    (app / name).touch()

    await asyncio.wait_for(end_on_change(settings, loaded, ended.set), 30)
    assert ended.is_set()
    assert [line.getMessage() for line in caplog.records if line.levelname == "WARNING"] == hints
