"""The one wheel: the library and the local stack, without the apps."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from infra.release.wheels import Environment
from minutehand.version import VERSION


def test_the_wheel_has_the_library_and_the_local_stack(
    releases: dict[str, Path], environment: Environment, tmp_path: Path
) -> None:
    """An app is the clone's; what a project has is told apart from what it misses."""
    [wheel] = releases[VERSION].glob("*.whl")
    with ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"minutehand", "supabase_local", f"minutehand-{VERSION}.dist-info"}

    environment.minutehand(tmp_path, "install", "--yes", "--tenancy", "personal")
    no_app = environment.minutehand(tmp_path, "install", "--yes", "--app", "chat", code=1)
    assert "clone" in no_app["fix"]
