"""The wheel in an environment of its own: the command, the stack and the packager of a stranger."""

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
from infra.release.wheel import build_wheel
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
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with `minutehand[dev,deploy]`, in the versions that are locked here."""
    folder = tmp_path_factory.mktemp("stranger")
    lock = (ROOT / "requirements-dev.lock").read_text("utf-8")
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(re.findall(r"^(\S+==.*?) \\$", lock, re.MULTILINE)))
    run_tool([uv(), "venv", "-q", str(folder / "venv")], "no environment")
    install = [uv(), "pip", "install", "-q", "--python", str(folder / "venv/bin/python")]
    target = f"minutehand[dev,deploy] @ {wheel.as_uri()}"
    run_tool([*install, "--constraint", str(pins), target], "the wheel does not install")
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


def test_the_wheel_has_one_name_and_everything_beside_it(wheel: Path) -> None:
    """No `shared`, no `functions`, no tests; migrations, console and CloudFormation travel.

    The reference apps and the local Supabase travel with it, each a package of its own name.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    assert {name.split("/")[0] for name in names} == {
        "minutehand",
        "minutehand_apps",
        "supabase_local",
        f"minutehand-{VERSION}.dist-info",
    }
    assert set(resource_files(ROOT).values()) <= names
    assert "minutehand/py.typed" in names
    assert [name for name in names if "screenshots" in name or "/tests/" in name] == []


def test_two_builds_give_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    """Who audits a release must be able to rebuild it."""
    again = build_wheel(tmp_path)

    assert (
        hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(wheel.read_bytes()).digest()
    )


def test_the_command_says_its_version_without_its_extras(wheel: Path, tmp_path: Path) -> None:
    """A plain install has no Typer; the command then names the extra that brings it."""
    with zipfile.ZipFile(wheel) as archive:
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
    """Their lock, their packages, the wheel's functions; the reference apps stay behind."""
    command = [str(environment / "bin" / "minutehand"), "package", "--target", "host"]
    done = subprocess.run(
        command, cwd=project, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

    with zipfile.ZipFile(project / "build/host/app.zip") as archive:
        archive.extractall(tmp_path / "app")
        names = archive.namelist()
    assert {"jobs/processors.py", "shared/words.py"} <= set(names)
    assert [name for name in names if "/apps/" in name or "/cli/" in name] == []
    for function in ("jobs", "status", "worker"):
        report = probe(
            tmp_path / "app", runtime_site, f"minutehand.functions.{function}.handler",
            MINUTEHAND_APPS="jobs",
        )  # fmt: skip
        assert report["compiled"] == []
