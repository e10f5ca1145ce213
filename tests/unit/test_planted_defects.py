"""The list behind `make mutate`: each defect can still be planted, and names tests that exist."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from infra.mutate.__main__ import make_python
from infra.mutate.defects import OF_THE_MACHINE, ROOT, Defect, defects

PLANTED = defects()


@pytest.mark.parametrize("defect", PLANTED, ids=lambda defect: defect.name)
def test_a_defect_applies_and_its_tests_exist(defect: Defect) -> None:
    """The list has to follow the source, or the score speaks of what is not there any more."""
    whole = (ROOT / defect.file).read_text("utf-8")

    assert defect.planted(whole) != whole
    words = shlex.split(defect.tests)
    named = [ROOT / word for word in words if word.startswith("tests/")]
    assert named
    assert all(path.exists() for path in named)
    if "-k" in words and named[0].name != "test_scripts.py":  # whose tests are other files
        chosen = words[words.index("-k") + 1].split(" or ")
        text = "".join(path.read_text("utf-8") for path in named if path.is_file())
        assert any(word in text for word in chosen)


def test_the_python_of_a_copy_imports_the_copy(tmp_path: Path) -> None:
    """Also in a process of the stack, to which no path is passed: else it finds no defect."""
    package = tmp_path / "shared" / "minutehand" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.touch()

    make_python(tmp_path)

    said = subprocess.check_output(
        [tmp_path / ".venv" / "bin" / "python", "-c", "import minutehand, psycopg as p; print("
         "minutehand.__file__, p.__version__)"],
        cwd="/", env={}, text=True,
    )  # fmt: skip
    assert said.split()[0] == str(package)


def test_every_part_has_its_defects() -> None:
    """README's promises, the worker, the API, the browser's client, install and deploy."""
    assert {each.part for each in PLANTED} == {"engine", "worker", "web", "client", "install"}
    assert len({each.name for each in PLANTED}) == len(PLANTED)
    assert len(PLANTED) + len(list(OF_THE_MACHINE.glob("*.sql"))) >= 80
