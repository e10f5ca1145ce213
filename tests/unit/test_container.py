"""The container's recipe against the checkout: there is no Docker where tests run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

CONTAINER = Path("infra/container")


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
