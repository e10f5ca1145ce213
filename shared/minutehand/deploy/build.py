"""The zip that the four functions share: locked wheels, this package, the project's code.

Needs a package registry or uv's cache, never a cloud account. The functions run on the Python that
builds them, so that its byte code is theirs.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from minutehand.app import find_apps
from minutehand.config import JobServiceError
from minutehand.project import Project
from minutehand.resources import PACKAGE, checkout

#: Until when Lambda runs each: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
RUNTIMES = {
    "3.11": "30 June 2027",
    "3.12": "31 October 2028",
    "3.13": "30 June 2029",
    "3.14": "30 June 2029",
}
PYTHON = ".".join(platform.python_version_tuple()[:2])
#: Amazon Linux 2023 has glibc 2.34; 2.28 wheels are what vendors publish for it.
PLATFORM = "aarch64-manylinux_2_28"
ARCHIVE = "app.zip"
#: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
LAMBDA_BYTES = 250 * 1024 * 1024
#: Lambda's image has these; bundling them would add 33 MB for nothing.
IN_THE_RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath")
#: Folders of this package and of apps that no function imports, and modules of apps.
NOT_ON_LAMBDA = (
    "cli console demo deploy examples install local migrations pages resources seeds terminal verbs"
)
NO_MODULES = frozenset({"demo", "local", "verbs"})
#: Folders of a project that hold Python and are no packages of its functions.
NOT_PACKAGES = frozenset(
    {"build", "dist", "docs", "infra", "minutehand", "scripts", "supabase_local", "tests"}
)
UNREAD = (".pyc", ".pyi", ".pyx", ".pxd", ".c", ".h", ".typed", ".md", ".rst")
LOCK = "requirements.lock"
#: Where a machine has its own certificates: a company's proxy may sign with its own.
CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
)
#: The earliest instant that a zip can hold: its bytes depend on its content alone.
INSTANT = (1980, 1, 1, 0, 0, 0)


class PackagingError(JobServiceError):
    """The zip cannot be built, or must not be shipped; the message says what to change."""


@dataclass(frozen=True)
class Built:
    """What was built."""

    archive: str
    sha256: str
    zipped_bytes: int
    python: str


def build(out: Path, project: Project, *, for_lambda: bool = True) -> Built:
    """Build `app.zip` and its unzipped tree `app` in `out`.

    Args:
        out: The folder of both.
        project: Whose lock and code.
        for_lambda: False builds for this machine, so that a test can run it.

    Raises:
        PackagingError: A tool failed, Lambda does not run this Python, or the zip is too large.
    """
    if PYTHON not in RUNTIMES:
        raise PackagingError(
            f"Lambda does not run Python {PYTHON}; build with one of {', '.join(RUNTIMES)}"
        )
    tree = out / "app"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    _install(locked(project, out), tree, for_lambda=for_lambda)
    for source, place in sources(project):
        copy = tree / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    compiled = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(tree)]
    compiled += ["-p", "/var/task", "--invalidation-mode", "unchecked-hash", str(tree)]
    run(compiled, "the byte code could not be compiled")
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    if for_lambda and size > LAMBDA_BYTES:
        raise PackagingError(
            f"the zip would hold {size / 1e6:,.0f} MB and Lambda takes {LAMBDA_BYTES / 1e6:,.0f}: "
            f"{LOCK} should pin only what the functions import. Delete it, and the next build "
            "writes it without what only `minutehand dev` needs"
        )
    archive = out / ARCHIVE
    digest = _write_zip(tree, archive)
    return Built(archive.name, digest, archive.stat().st_size, PYTHON)


def locked(project: Project, out: Path) -> Path:
    """The pinned requirements to install: requirements.lock, or uv.lock without its groups.

    A project without either gets a requirements.lock, to be committed.
    """
    lock = project.root / LOCK
    if not lock.is_file() and (project.root / "uv.lock").is_file():
        lock = out / LOCK
        command = [find_tool("uv"), "export", "--quiet", "--directory", str(project.root)]
        command += ["--frozen", "--no-dev", "--no-emit-project", "--no-emit-package", "minutehand"]
        lock.write_text(run(command, "uv.lock could not be read"), "utf-8")
    elif not lock.is_file():
        command = [find_tool("uv"), "pip", "compile", "--quiet", "--universal", "--generate-hashes"]
        command += ["--no-emit-index-url", "--python-version", PYTHON, "--python", sys.executable]
        wanted = "\n".join(sorted(_wanted(project)))
        lock.write_text(run([*command, "-"], f"{LOCK} could not be made", given=wanted), "utf-8")
    return lock


def _wanted(project: Project) -> Iterator[str]:
    """What this package and the project ask for, without extras and this package itself."""
    yield from _ours()
    file = project.root / "pyproject.toml"
    about = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    asked = list(about.get("project", {}).get("dependencies", []))
    listed = project.root / "requirements.txt"
    asked += listed.read_text("utf-8").splitlines() if listed.is_file() else []
    for line in asked:
        try:
            wanted = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:
            continue  # an option, a path, a comment
        if wanted.name != "minutehand":
            yield str(wanted)


def _ours() -> Iterable[str]:
    try:
        return [line for line in requires("minutehand") or () if "extra ==" not in line]
    except PackageNotFoundError:
        file = (checkout() or PACKAGE.parents[1]) / "pyproject.toml"
        found: list[str] = tomllib.loads(file.read_text("utf-8"))["project"]["dependencies"]
        return found


def sources(project: Project) -> Iterator[tuple[Path, Path]]:
    """Each file of this package's and the project's code, with its place in the zip."""
    apps = find_apps(project.apps)
    tops = {PACKAGE}
    for app in apps:
        top = app.folder.parents[app.package.count(".") - 1] if "." in app.package else app.folder
        if "site-packages" not in top.parts:  # else the lock brings it
            tops.add(top)
    for root in project.import_roots:
        tops.update(path for path in root.iterdir() if _is_package(path))
    for top in sorted(tops):
        files = [top] if top.is_file() else sorted(top.rglob("*"))
        for file in files:
            place = file.relative_to(top.parent)
            if file.is_file() and _is_needed(place):
                yield file, place


def _is_package(path: Path) -> bool:
    if path.suffix == ".py":
        return True
    usable = path.is_dir() and path.name.isidentifier() and path.name not in NOT_PACKAGES
    return usable and any(path.glob("*.py"))


def _is_needed(place: Path) -> bool:
    hidden = any(part.startswith((".", "__pycache__")) for part in place.parts)
    return not (
        hidden
        or place.suffix in UNREAD
        or place.name.startswith("test_")
        or place.stem in NO_MODULES
        or not set(place.parts[1:-1]).isdisjoint(NOT_ON_LAMBDA.split())
    )


def _install(lock: Path, tree: Path, *, for_lambda: bool) -> None:
    command = [find_tool("uv"), "pip", "install", "--quiet", "--no-deps", "--no-config"]
    command += ["--only-binary", ":all:", "--link-mode", "copy", "--target", str(tree)]
    command += ["--python-version", PYTHON, "--python", sys.executable, "-r", str(lock)]
    if for_lambda:
        command += ["--python-platform", PLATFORM]
    run(command, "the locked wheels could not be installed")
    for name in (*IN_THE_RUNTIME, "bin"):
        for path in (tree / name, *tree.glob(f"{name}-*.dist-info")):
            shutil.rmtree(path, ignore_errors=True)
    for path in tree.rglob("*"):
        if path.name == ".lock" or (path.is_file() and path.suffix in UNREAD):
            path.unlink()


def _write_zip(folder: Path, target: Path) -> str:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), INSTANT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if path.suffix == ".so" else 0o100644) << 16
            archive.writestr(entry, path.read_bytes())
    return hashlib.sha256(target.read_bytes()).hexdigest()


def find_tool(name: str) -> str:
    """A program: beside this interpreter first, as a virtual environment need not be active.

    Raises:
        PackagingError: It is not installed.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise PackagingError(f'{name} is not installed: pip install "minutehand[deploy]"')
    return found


def run(command: list[str], what: str, *, given: str | None = None) -> str:
    """Run a program and return what it printed.

    Raises:
        PackagingError: It ended with an error; its own words follow `what`.
    """
    if Path(command[0]).stem == "uv" and any(path.exists() for path in CERTIFICATES):
        command = [*command, "--system-certs"]
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackagingError(f"{what}: {' '.join(command[:4])}… said\n{done.stdout}{done.stderr}")
    return done.stdout
