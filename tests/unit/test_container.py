"""The container's recipe against the checkout: there is no Docker where tests run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from minutehand.cli.__main__ import VERBS

CONTAINER = Path("infra/container")


def test_everything_that_is_copied_is_there(repository: Path) -> None:
    """And nothing that a checkout has beside the tracked files."""
    recipe = (repository / CONTAINER / "Dockerfile").read_text("utf-8")

    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.+)$", recipe, re.MULTILINE)
        for name in line.split()[:-1]
    ]

    assert copied
    assert [name for name in copied if not (repository / name).exists()] == []
    assert 'CMD ["python", "-m", "minutehand.cli", "serve"]' in recipe
    assert "serve" in VERBS


def test_its_lock_has_what_the_extra_names_and_the_versions_that_were_tested(
    repository: Path,
) -> None:
    """A package that only the container has was tried by nobody."""
    project = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        re.split(r"[\[<>=;]", name)[0].strip()
        for extra in ("serve", "cli")
        for name in project["optional-dependencies"][extra]
    ]

    locked = pins(repository / CONTAINER / "requirements.lock")
    tested = pins(repository / "requirements-dev.lock")

    assert set(wanted) - {"minutehand"} <= set(locked)
    assert {name: version for name, version in locked.items() if tested.get(name) != version} == {}


def pins(path: Path) -> dict[str, str]:
    """Name → version of a lock."""
    found = re.findall(
        r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;\\]+)", path.read_text("utf-8"), re.MULTILINE
    )
    return dict(found)
