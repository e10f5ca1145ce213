"""The library with its apps beside it, and without the local stack."""

from __future__ import annotations

import shutil
from pathlib import Path

from infra.release.wheels import Environment
from minutehand.version import VERSION

LISTED = """\
from minutehand.app import find_apps, offered_apps
from minutehand.project import Project
print(*offered_apps(), "|", *(app.name for app in find_apps(Project.find().apps)))
"""


def test_installed_apps_are_offered_and_a_project_has_those_that_it_names(
    environment: Environment, tmp_path: Path
) -> None:
    """Else their tables would be missing as soon as somebody tried another app."""
    environment.minutehand(tmp_path, "install", "--yes", "--tenancy", "personal")
    before = environment.run(tmp_path, "-c", LISTED).stdout.strip()
    added = environment.minutehand(tmp_path, "install", "--yes", "--app", "chat")
    answers = tmp_path / "minutehand.toml"
    answers.write_text(answers.read_text().replace('["jobs"]', '["jobs", "minutehand_apps.chat"]'))
    after = environment.run(tmp_path, "-c", LISTED).stdout.strip()

    assert before == "beacon chat enrichment plans training | jobs"
    assert 'apps = ["jobs", "minutehand_apps.chat"]' in added["notes"][0]
    assert after.endswith("| chat jobs")


def test_the_library_alone_names_what_brings_the_rest(
    releases: dict[str, Path], tmp_path: Path
) -> None:
    """What needs no local stack runs without one."""
    wheels, project = tmp_path / "wheels", tmp_path / "project"
    wheels.mkdir()
    project.mkdir()
    [library] = releases[VERSION].glob("minutehand-*.whl")
    shutil.copy(library, wheels)
    alone = Environment.make(tmp_path / "venv", wheels)

    alone.minutehand(project, "install", "--yes", "--tenancy", "personal")
    alone.minutehand(project, "docs", "sql")
    alone.run(project, "-m", "minutehand.cli.entry", "deploy", "--help")
    no_app = alone.minutehand(project, "install", "--yes", "--app", "chat", code=1)
    no_stack = alone.run(project, "-m", "minutehand.cli.entry", "dev", code=1)

    assert no_app["fix"] == "pip install minutehand-apps"
    assert no_stack.stderr.strip().endswith('Install it: pip install "minutehand[dev]"')
