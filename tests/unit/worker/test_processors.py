"""The processors that a worker finds in the packages of apps at its start."""

from pathlib import Path

import pytest

from infra.bench.scratch import scratch_settings
from minutehand.functions.worker.processors import load_processors
from minutehand.worker.registry import default_registry

PROCESSORS = """
from minutehand.worker import processor

@processor("NAME", payload=dict)
async def run(job, ctx):
    pass
"""
REGISTERS = """
def register(registry, settings):
    registry.processor("NAME", payload=dict)(print)
"""
#: For each package: its files, and whether a worker finds its processor.
SHAPES = {
    "in_a_module": ({"processors.py": PROCESSORS}, True),
    "in_modules_of_a_package": (
        {"processors/__init__.py": "", "processors/a.py": PROCESSORS},
        True,
    ),
    "by_register": ({"processors.py": REGISTERS}, True),
    "in_the_package_itself": ({"__init__.py": PROCESSORS}, False),
    "in_a_misspelt_module": ({"processor.py": PROCESSORS}, False),
    "in_an_empty_module": ({"processors.py": ""}, False),
}


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the registry of `@processor`, which the whole process shares."""
    monkeypatch.setattr(default_registry, "_types", {})


@pytest.mark.parametrize("shape", SHAPES)
def test_a_package_without_processors_is_named_at_the_start(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker logs a warning for a package in which it finds no processors."""
    files, found = SHAPES[shape]
    for path, text in {"__init__.py": "", **files}.items():
        file = tmp_path / shape / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("NAME", f"{shape}.run"))
    monkeypatch.syspath_prepend(tmp_path)

    names = load_processors(scratch_settings(apps=(shape,))).names

    assert (f"{shape}.run" in names) is found
    expected = f"{shape} has no processors; write them in {shape}/processors.py"
    assert [expected in line for line in caplog.messages] == ([] if found else [True])


def test_apps_that_name_no_package_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty_folder").mkdir()
    (tmp_path / "empty_folder" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    load_processors(scratch_settings(apps=("empty_folder.*",)))

    assert caplog.messages == ["MINUTEHAND_APPS=empty_folder.* names no package with processors"]


#: For each package with two processors of one type: its files, and the module that is left out.
TWICE = {
    "in_two_modules": ({"a.py": PROCESSORS, "b.py": PROCESSORS}, "b"),
    "in_one_module": ({"b.py": PROCESSORS + PROCESSORS}, "b"),
    "by_register_too": ({"a.py": PROCESSORS, "b.py": REGISTERS}, "a"),
    "by_register_twice": ({"a.py": REGISTERS, "b.py": REGISTERS}, "b"),
}


@pytest.mark.parametrize("shape", TWICE)
def test_a_type_with_two_processors_names_both_and_stops_no_other(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If two processors have one job type, the second module is left out with an error.

    All other modules are loaded.
    """
    files, left_out = TWICE[shape]
    folder = tmp_path / shape / "processors"
    folder.mkdir(parents=True)
    right = {f"{each}_right.py": PROCESSORS.replace("NAME", f"right.{each}") for each in "ab"}
    for path, text in {"../__init__.py": "", "__init__.py": "", **right, **files}.items():
        (folder / path).write_text(text.replace("NAME", "twice"))
    monkeypatch.syspath_prepend(tmp_path)
    settings = scratch_settings(apps=(shape,))
    errors: list[tuple[str, Exception]] = []

    registry = load_processors(settings, on_error=lambda *each: errors.append(each))

    assert {"right.a", "right.b"} <= set(registry.names)
    [(module, error)] = errors
    assert [module] == [*registry.failures] == [f"{shape}.processors.{left_out}"]
    assert "job type 'twice' has two processors: " in str(error)
