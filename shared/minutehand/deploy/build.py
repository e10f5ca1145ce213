"""Builds the zip of the four Lambda functions: wheels, this package and the project's code.

A build needs a package registry or uv's cache, but no AWS account. The functions must run on the
Python version with which the zip was built, because the zip contains byte code.
"""

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

#: Python versions that Lambda runs: https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
RUNTIMES = ("3.11", "3.12", "3.13", "3.14")
PYTHON = ".".join(platform.python_version_tuple()[:2])
#: Platform of the wheels in the zip. Vendors publish wheels for glibc 2.28. These wheels also run
#: on Lambda's Amazon Linux 2023, which has glibc 2.34.
PLATFORM = "aarch64-manylinux_2_28"
ARCHIVE = "app.zip"
#: Maximum unzipped size: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
LAMBDA_BYTES = 250 * 1024 * 1024
#: Packages of 33 MB that the zip omits, because Lambda's image contains these packages.
IN_THE_RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath")
#: Folders of this package and of apps that the zip omits, because no Lambda function imports their
#: modules.
NOT_ON_LAMBDA = (
    "cli console demo deploy examples install local migrations pages resources seeds terminal verbs"
)
#: Modules of apps that the zip omits, because no Lambda function imports them.
EXCLUDED_MODULES = frozenset({"demo", "local", "verbs"})
#: Folders of a project that the zip omits, because they contain no code of the functions.
NOT_PACKAGES = frozenset(
    {"build", "dist", "docs", "infra", "minutehand", "scripts", "supabase_local", "tests"}
)
EXCLUDED_SUFFIXES = (".pyc", ".pyi", ".pyx", ".pxd", ".c", ".h", ".typed", ".md", ".rst")
LOCK = "requirements.lock"
#: Files with this machine's CA certificates, which uv needs behind a proxy with its own
#: certificate.
CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
)
#: Modification time of all files in the zip, constant so that the zip's bytes depend only on the
#: files' contents.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)


class PackagingError(JobServiceError):
    """The zip cannot be built or must not be deployed. The error's message contains the remedy."""


@dataclass(frozen=True)
class Built:
    """Result of a build of the zip."""

    archive: str
    sha256: str
    zipped_bytes: int
    python: str


def build(out: Path, project: Project) -> Built:
    """Build `app.zip` in `out`, and next to the zip the folder `app` with its unzipped files.

    Args:
        out: Folder for the zip and for the folder `app`.
        project: Project with the lock file and the code.

    Raises:
        PackagingError: A program failed, Lambda does not support this Python version, or the zip is
            too large.
    """
    if PYTHON not in RUNTIMES:
        raise PackagingError(
            f"the Python version must be one of {', '.join(RUNTIMES)} for Lambda, not {PYTHON}"
        )
    tree = out / "app"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    _install(lock_requirements(project, out), tree)
    for source, relative_path in sources(project):
        copy = tree / relative_path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(tree)]
    command += ["-p", "/var/task", "--invalidation-mode", "unchecked-hash", str(tree)]
    run(command, "the byte code could not be compiled")
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    if size > LAMBDA_BYTES:
        raise PackagingError(
            f"the unzipped size must be at most {LAMBDA_BYTES / 1e6:,.0f} MB on Lambda, and is "
            f"{size / 1e6:,.0f} MB: {LOCK} should pin only what the functions import. Delete it, "
            "and the next build writes it without packages that only `minutehand dev` needs"
        )
    target = out / ARCHIVE
    digest = _write_zip(tree, target)
    return Built(target.name, digest, target.stat().st_size, PYTHON)


def lock_requirements(project: Project, out: Path) -> Path:
    """Return the file with pinned requirements: requirements.lock, or uv.lock without its groups.

    If the project has neither requirements.lock nor uv.lock, write requirements.lock, which the
    developer commits.
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
        requirements = "\n".join(sorted(_requirements(project)))
        text = run([*command, "-"], f"{LOCK} could not be created", stdin=requirements)
        lock.write_text(text, "utf-8")
    return lock


def _requirements(project: Project) -> Iterator[str]:
    """List the requirements of this package and of the project, without extras."""
    yield from _package_requirements()
    file = project.root / "pyproject.toml"
    metadata = tomllib.loads(file.read_text("utf-8")) if file.is_file() else {}
    lines = list(metadata.get("project", {}).get("dependencies", []))
    listed = project.root / "requirements.txt"
    lines += listed.read_text("utf-8").splitlines() if listed.is_file() else []
    for line in lines:
        try:
            requirement = Requirement(line.partition(" #")[0].strip())
        except InvalidRequirement:
            continue  # the line is an option, a path or a comment
        if requirement.name != "minutehand":
            yield str(requirement)


def _package_requirements() -> Iterable[str]:
    try:
        return [line for line in requires("minutehand") or () if "extra ==" not in line]
    except PackageNotFoundError:
        file = (checkout() or PACKAGE.parents[1]) / "pyproject.toml"
        lines: list[str] = tomllib.loads(file.read_text("utf-8"))["project"]["dependencies"]
        return lines


def sources(project: Project) -> Iterator[tuple[Path, Path]]:
    """Yield each code file of this package and of the project, with its path in the zip."""
    apps = find_apps(project.apps)
    tops = {PACKAGE}
    for app in apps:
        top = app.folder.parents[app.package.count(".") - 1] if "." in app.package else app.folder
        if "site-packages" not in top.parts:  # an installed app comes with the locked wheels
            tops.add(top)
    for root in project.import_roots:
        tops.update(path for path in root.iterdir() if _is_package(path))
    for top in sorted(tops):
        files = [top] if top.is_file() else sorted(top.rglob("*"))
        for file in files:
            relative_path = file.relative_to(top.parent)
            if file.is_file() and _is_needed(relative_path):
                yield file, relative_path


def _is_package(path: Path) -> bool:
    if path.suffix == ".py":
        return True
    is_usable = path.is_dir() and path.name.isidentifier() and path.name not in NOT_PACKAGES
    return is_usable and any(path.glob("*.py"))


def _is_needed(path: Path) -> bool:
    is_hidden = any(part.startswith((".", "__pycache__")) for part in path.parts)
    return not (
        is_hidden
        or path.suffix in EXCLUDED_SUFFIXES
        or path.name.startswith("test_")
        or path.stem in EXCLUDED_MODULES
        or not set(path.parts[1:-1]).isdisjoint(NOT_ON_LAMBDA.split())
    )


def _install(lock: Path, tree: Path) -> None:
    command = [find_tool("uv"), "pip", "install", "--quiet", "--no-deps", "--no-config"]
    command += ["--only-binary", ":all:", "--link-mode", "copy", "--target", str(tree)]
    command += ["--python-version", PYTHON, "--python", sys.executable, "-r", str(lock)]
    command += ["--python-platform", PLATFORM]
    run(command, "the locked wheels could not be installed")
    for name in (*IN_THE_RUNTIME, "bin"):
        for path in (tree / name, *tree.glob(f"{name}-*.dist-info")):
            shutil.rmtree(path, ignore_errors=True)
    for path in tree.rglob("*"):
        if path.name == ".lock" or (path.is_file() and path.suffix in EXCLUDED_SUFFIXES):
            path.unlink()


def _write_zip(folder: Path, target: Path) -> str:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for path in sorted(folder.rglob("*")):
            if path.is_dir():
                continue
            entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if path.suffix == ".so" else 0o100644) << 16
            zip_file.writestr(entry, path.read_bytes())
    return hashlib.sha256(target.read_bytes()).hexdigest()


def find_tool(name: str) -> str:
    """Find a program in the folder of this Python interpreter, or otherwise in the search path.

    The interpreter's folder contains the programs of its virtual environment, even if the
    environment is not active.

    Raises:
        PackagingError: The program `name` is not installed.
    """
    neighbour = Path(sys.executable).with_name(name)
    path = str(neighbour) if neighbour.exists() else shutil.which(name)
    if path is None:
        raise PackagingError(f'{name} must be installed: pip install "minutehand[deploy]"')
    return path


def run(command: list[str], message: str, *, stdin: str | None = None) -> str:
    """Run a program and return its output.

    Raises:
        PackagingError: The program failed. The error's message is `message` and the program's
            output.
    """
    if Path(command[0]).stem == "uv" and any(path.exists() for path in CERTIFICATES):
        command = [*command, "--system-certs"]
    result = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if result.returncode:
        output = f"{result.stdout}{result.stderr}"
        raise PackagingError(f"{message}: {' '.join(command[:4])}… failed with\n{output}")
    return result.stdout
