"""The wheels in an environment of its own: a stranger's command, stack and packager."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from infra.release.resources import resource_files
from infra.release.wheels import build_wheels
from minutehand.deploy.tools import run_tool, uv
from minutehand.version import VERSION
from tests.artefact.test_functions import probe
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

PROCESSORS = '''"""What the stranger runs."""

from minutehand import Job, JobContext, processor
from pydantic import BaseModel

from shared.words import greeting


class Greet(BaseModel):
    name: str


@processor("greet", payload=Greet)
async def greet(job: Job[Greet], ctx: JobContext) -> dict[str, str]:
    return {"said": greeting(job.payload.name)}
'''
#: A project with a `shared` package of its own, which must stay its own.
FILES = {
    "minutehand.toml": 'apps = ["jobs"]\nschema = "public"\n',
    "jobs/__init__.py": "",
    "jobs/processors.py": PROCESSORS,
    "shared/words.py": 'def greeting(name: str) -> str:\n    return f"Hello, {name}"\n',
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of this checkout by name."""
    built = build_wheels(ROOT, tmp_path_factory.mktemp("dist"))
    return {path.name.split("-")[0]: path for path in built.iterdir()}


@pytest.fixture(scope="module")
def environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`minutehand[dev,deploy]` and the apps, which no project here names; versions as locked.

    In place of an index of packages, a folder offers the three wheels.
    """
    folder = tmp_path_factory.mktemp("stranger")
    lock = (ROOT / "requirements-dev.lock").read_text("utf-8")
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(re.findall(r"^(\S+==.*?) \\$", lock, re.MULTILINE)))
    run_tool([uv(), "venv", "-q", str(folder / "venv")], "no environment")
    install = [uv(), "pip", "install", "-q", "--python", str(folder / "venv/bin/python")]
    install += ["--constraint", str(pins), "--find-links", str(wheels["minutehand"].parent)]
    wanted = [f"minutehand[dev,deploy]=={VERSION}", f"minutehand-apps=={VERSION}"]
    run_tool([*install, *wanted], "the wheels do not install")
    return folder / "venv"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with one processor and the engine's migrations."""
    root = tmp_path / "project"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copytree(ROOT / "supabase" / "migrations", root / "supabase" / "migrations")
    for template in (ROOT / "shared/minutehand/install/templates").glob("*.yml"):
        shutil.copyfile(template, root / template.name)
    shutil.copyfile(ROOT / "requirements.lock", root / "requirements.lock")
    return root


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The process's environment without anything of this checkout."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


def test_each_wheel_has_one_package_and_everything_beside_it(wheels: dict[str, Path]) -> None:
    """No `shared`, no `functions`, no tests; migrations, console and CloudFormation travel."""
    packages = {
        "minutehand": "minutehand",
        "minutehand_apps": "minutehand_apps",
        "minutehand_local": "supabase_local",
    }
    names: set[str] = set()
    for wheel, package in packages.items():
        with zipfile.ZipFile(wheels[wheel]) as archive:
            inside = archive.namelist()
        tops = {name.split("/")[0] for name in inside}
        assert tops == {package, f"{wheel}-{VERSION}.dist-info"}
        names.update(inside)

    assert set(packages) == set(wheels)
    assert set(resource_files(ROOT).values()) <= names
    assert {"minutehand/py.typed", "supabase_local/gateway/server.mjs"} <= names
    assert [name for name in names if name.endswith("pyproject.toml")] == []
    assert [name for name in names if "screenshots" in name or "/tests/" in name] == []


def test_the_three_ask_for_each_other_in_one_version(wheels: dict[str, Path]) -> None:
    """And every app is offered by its name."""
    needed: dict[str, list[str]] = {}
    for name, wheel in wheels.items():
        with zipfile.ZipFile(wheel) as archive:
            about = archive.read(f"{name}-{VERSION}.dist-info/METADATA").decode()
            needed[name] = re.findall(
                r"^Requires-Dist: (minutehand[-\w]*==.*)$", about, re.MULTILINE
            )
    with zipfile.ZipFile(wheels["minutehand_apps"]) as archive:
        offered = archive.read(f"minutehand_apps-{VERSION}.dist-info/entry_points.txt").decode()

    assert needed == {
        "minutehand": [f"minutehand-local=={VERSION}; extra == 'dev'"],
        "minutehand_apps": [f"minutehand=={VERSION}"],
        "minutehand_local": [f"minutehand=={VERSION}"],
    }
    folders = sorted(path.parent.name for path in ROOT.glob("shared/minutehand_apps/*/__init__.py"))
    lines = [f"{name} = minutehand_apps.{name}" for name in folders]
    assert offered.split("\n") == ["[minutehand.apps]", *lines, ""]


def test_two_builds_give_the_same_bytes(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Who audits a release must be able to rebuild it."""
    for again in build_wheels(ROOT, tmp_path).iterdir():
        made = wheels[again.name.split("-")[0]]
        assert hashlib.sha256(again.read_bytes()).digest() == (
            hashlib.sha256(made.read_bytes()).digest()
        )


def test_the_command_says_its_version_without_its_extras(
    wheels: dict[str, Path], tmp_path: Path
) -> None:
    """A plain install has no Typer; the command then names the extra that brings it."""
    with zipfile.ZipFile(wheels["minutehand"]) as archive:
        archive.extractall(tmp_path)
    program = [
        "import sys; sys.modules['typer'] = None; sys.argv = ['minutehand', *sys.argv[1:]]",
        "from minutehand.cli.entry import run; run()",
        "print(sorted({'boto3', 'fastapi', 'psycopg', 'pydantic'} & set(sys.modules)))",
    ]
    command = [shutil.which("python3") or "python3", "-S", "-c", "\n".join(program)]
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}

    asked = subprocess.run([*command, "--version"], env=clean, capture_output=True, text=True)

    assert asked.stdout.splitlines() == [VERSION, "[]"], asked.stderr


@pytest.mark.timeout(900)
def test_what_travels_is_what_the_library_finds_and_nothing_of_this_project() -> None:
    """Its documents and Node's own settings come along; its stages and pictures stay."""
    found = {place.removeprefix("minutehand/resources/") for place in resource_files(ROOT).values()}

    docs = {
        f"docs/{name}.md" for name in ("http", "aws", "cost", "browser", "npm", "container", "sql")
    }
    node = {"node/package.json", "node/package-lock.json", "node/.npmrc"}
    assert {*docs, *node, "CHANGELOG.md", "seed/seed.sql", "console/index.html"} <= found
    assert "cloudformation/functions.yml" in found
    left = ("stages.yml", "README.md", "DECISIONS.md", ".webp")
    assert not [place for place in found if place.endswith(left)]


def test_a_strangers_project_runs_its_job(
    environment: Path, project: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    """`minutehand dev` from the wheel: their migrations, their processor, a job to its end."""
    command = str(environment / "bin" / "minutehand")
    output = tmp_path / "dev.log"
    with output.open("wb") as log:
        stack = subprocess.Popen(
            [command, "dev", "--any-ports"],
            cwd=project, env=variables, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 600
        while "serves until" not in output.read_text("utf-8"):
            assert stack.poll() is None, output.read_text("utf-8")
            assert time.monotonic() < deadline, output.read_text("utf-8")
            time.sleep(0.2)
        done = subprocess.run(
            [command, "enqueue", "greet", '{"name": "Ada"}', "--watch"],
            cwd=project, env=variables, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    finally:
        stack.send_signal(signal.SIGINT)
        stack.wait(120)

    assert done.returncode == 0, done.stderr
    assert "Hello, Ada" in done.stdout
    assert stack.returncode == 0


@pytest.mark.timeout(900)
def test_a_strangers_zips_hold_their_code_and_import(
    environment: Path,
    project: Path,
    variables: dict[str, str],
    runtime_site: Path,
    tmp_path: Path,
) -> None:
    """Their lock, their packages, the wheel's functions; nothing of the local stack."""
    command = [str(environment / "bin" / "minutehand"), "package", "--target", "host"]
    done = subprocess.run(
        command, cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    with zipfile.ZipFile(project / "build/host/app.zip") as archive:
        archive.extractall(tmp_path / "app")
        names = archive.namelist()
    assert {"jobs/processors.py", "shared/words.py"} <= set(names)
    unwanted = ("minutehand_apps/", "supabase_local/", "minutehand/cli/", "minutehand/local/")
    assert [name for name in names if name.startswith(unwanted)] == []
    for function in ("jobs", "status", "worker"):
        report = probe(
            tmp_path / "app", runtime_site, f"minutehand.functions.{function}.handler",
            MINUTEHAND_APPS="jobs",
        )  # fmt: skip
        assert report["compiled"] == []
