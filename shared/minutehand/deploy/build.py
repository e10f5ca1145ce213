"""Builds one bundle: files, locked wheels, byte code, zip, inventory; checks it against its budget.

Needs a package registry or uv's cache, never a cloud account.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import platform
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from minutehand.app import find_apps
from minutehand.deploy.archive import prune, tree_size, write_zip
from minutehand.deploy.bundles import LAMBDA, RUNTIME_MODULES, Bundle, Target
from minutehand.deploy.imports import Sources, canonical, closure, third_party
from minutehand.deploy.inventory import bill_of_materials, licence_table, read_metadata
from minutehand.deploy.lockfile import OURSELVES, Locked, read_lock, select
from minutehand.project import Project
from minutehand.resources import PACKAGE
from minutehand.version import VERSION

#: Found at run time beside the code; everything else in a room is source or text for people.
DATA_SUFFIXES = frozenset({".py", ".json", ".txt", ".csv", ".sql", ".html", ".jinja", ".toml"})

#: The parts of this package that functions import; the command and the local stack stay here.
PARTS = ("ai", "aws", "functions", "queue", "web", "webhooks", "worker")
#: What an app brings for other places than a function.
NOT_ON_LAMBDA = frozenset({"console", "demo", "examples", "migrations", "seeds", "verbs"})
LOCK = "requirements.lock"

#: Where Linux distributions keep the certificates a machine trusts.
CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
)


class PackagingError(Exception):
    """The zip cannot be built, or must not be shipped; the message says what to change."""


@dataclass(frozen=True)
class Built:
    """What one bundle became."""

    name: str
    archive: str
    sha256: str
    zipped_bytes: int
    unzipped_bytes: int
    python: str
    magic: str
    #: Of the first-party files and the lock; tells whether a zip is older than the sources.
    sources_sha256: str
    distributions: dict[str, str]


def host_target() -> Target:
    """This machine and this interpreter: for tests that run the zip.

    Where that is Lambda's Python, its byte code comes from Lambda's compiler and is proven by it.
    """
    minor = platform.python_version().rsplit(".", 1)[0]
    compiler = LAMBDA.compiler if minor == LAMBDA.python else "host"
    return Target("host", minor, None, compiler)


def sources_of(project: Project) -> Sources:
    """Where this package, the project's apps and its own handlers are imported from."""
    apps = find_apps(project.apps)
    parents = {app.folder.parents[app.package.count(".")] for app in apps}
    tops = {"minutehand", "functions", *(app.package.partition(".")[0] for app in apps)}
    return Sources((PACKAGE.parent, project.root, *sorted(parents)), frozenset(tops))


def source_files(bundle: Bundle, project: Project) -> list[Path]:
    """The first-party files of `bundle`, relative order fixed."""
    files = set(closure(bundle.handlers, sources_of(project)))
    own = [project.root / "functions" / name for name in bundle.functions]
    folders = [*(PACKAGE / part for part in PARTS), *own] if bundle.apps else own
    if bundle.apps:
        folders += [app.folder for app in find_apps(project.apps)]
        files.update(PACKAGE.glob("*.py"))
        files.update(_packages_above(project))
    files.update(
        path for folder in folders for path in folder.rglob("*") if _is_needed(path, folder)
    )
    files.update(
        file for folder in own for file in [folder.parent / "__init__.py"] if file.is_file()
    )
    return sorted(files)


def _packages_above(project: Project) -> Iterator[Path]:
    """The `__init__.py` of every package around an app."""
    for app in find_apps(project.apps):
        for parent in app.folder.parents[: app.package.count(".")]:
            if (file := parent / "__init__.py").is_file():
                yield file


def _is_needed(path: Path, folder: Path) -> bool:
    inside = path.relative_to(folder)
    return (
        path.is_file()
        and path.suffix in DATA_SUFFIXES
        and inside.parts[0] not in NOT_ON_LAMBDA
        and inside.stem not in NOT_ON_LAMBDA
        and not inside.name.startswith("test_")
        and not any(part.startswith((".", "__pycache__")) for part in inside.parts)
    )


def sources_hash(files: Iterable[Path], project: Project) -> str:
    """One hash of `files` and of what is locked."""
    whole = hashlib.sha256()
    sources = sources_of(project)
    named = [(sources.place(file).as_posix(), file) for file in files]
    for name, file in (*named, (LOCK, project.root / LOCK)):
        whole.update(name.encode() + b"\0")
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def locked_for(files: Iterable[Path], project: Project) -> list[Locked]:
    """The locked distributions that `files` need at run time.

    A module nobody declared is refused: it would be missing on Lambda and nowhere else.
    """
    entries = read_lock(project.root / LOCK)
    direct = {name for name, entry in entries.items() if OURSELVES in entry.parents}
    roots: set[str] = set()
    for module, names in sorted(third_party(files, sources_of(project)).items()):
        if module in RUNTIME_MODULES:
            continue
        known = {name for name in names if name in entries}
        if not known:
            # `import x` inside a try is allowed to miss, but only for what no lock knows
            continue
        roots |= known & direct or known
    return select(entries, roots, skip={canonical(name) for name in RUNTIME_MODULES})


def build(bundle: Bundle, target: Target, out: Path, *, project: Project | None = None) -> Built:
    """Build `bundle` for `target` into `out` and return what it became.

    Raises:
        PackagingError: A tool failed, or the result is over its budget.
    """
    project = project or Project.find()
    sources = sources_of(project)
    tree = out / bundle.name
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    files = source_files(bundle, project)
    locked = locked_for(files, project)
    _install(locked, target, tree, out)
    prune(tree)
    for file in files:
        copy = tree / sources.place(file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    python, magic = _compile(tree, target)
    archive = out / f"{bundle.name}.zip"
    digest = write_zip(tree, archive)
    metadata = read_metadata(tree)
    present = [entry for entry in locked if canonical(entry.name) in metadata]
    bom = bill_of_materials(bundle.name, VERSION, present, metadata)
    (out / f"{bundle.name}.cdx.json").write_text(json.dumps(bom, indent=2) + "\n", "utf-8")
    (out / f"{bundle.name}.licences.tsv").write_text(licence_table(present, metadata), "utf-8")
    built = Built(
        name=bundle.name,
        archive=archive.name,
        sha256=digest,
        zipped_bytes=archive.stat().st_size,
        unzipped_bytes=tree_size(tree),
        python=python,
        magic=magic,
        sources_sha256=sources_hash(files, project),
        distributions={entry.name: entry.version for entry in present},
    )
    (out / f"{bundle.name}.manifest.json").write_text(
        json.dumps(asdict(built), indent=2) + "\n", "utf-8"
    )
    _within_budget(bundle, built, tree)
    return built


def _install(locked: list[Locked], target: Target, tree: Path, out: Path) -> None:
    if not locked:
        return
    listing = out / f"{tree.name}.requirements.txt"
    listing.write_text("".join(entry.text for entry in locked), "utf-8")
    command = [
        find_tool("uv"), "pip", "install", "--quiet", "--require-hashes", "--no-deps",
        "--only-binary", ":all:", "--link-mode", "copy", "--no-config",
        "--target", str(tree), "--python-version", target.python, "--python", sys.executable,
        "-r", str(listing),
    ]  # fmt: skip
    if target.platform is not None:
        command += ["--python-platform", target.platform]
    # as infra/bootstrap/bootstrap.sh: a company's proxy may sign with a certificate of its own
    if any(bundle.exists() for bundle in CERTIFICATES):
        command.append("--system-certs")
    _run(command, "the locked wheels could not be installed")


def _compile(tree: Path, target: Target) -> tuple[str, str]:
    """Write byte code that is never checked against its source; returns version and magic."""
    if target.compiler == "host":
        ok = compileall.compile_dir(
            tree, quiet=1, force=True, stripdir=str(tree), prependdir="/var/task",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )  # fmt: skip
        if not ok:
            raise PackagingError("the byte code could not be compiled; see above")
        return platform.python_version(), MAGIC_NUMBER.hex()
    script = Path(__file__).with_name("compile.mjs")
    output = _run([find_tool("node"), str(script), str(tree), target.python], "byte code")
    report = json.loads(output.strip().splitlines()[-1])
    return report["python"], report["magic"]


def _within_budget(bundle: Bundle, built: Built, tree: Path) -> None:
    for what, size, budget in (
        ("zipped", built.zipped_bytes, bundle.zipped_budget),
        ("unzipped", built.unzipped_bytes, bundle.unzipped_budget),
    ):
        if size > budget:
            largest = sorted(
                (
                    (tree_size(path) if path.is_dir() else path.stat().st_size, path.name)
                    for path in tree.iterdir()
                ),
                reverse=True,
            )[:5]
            raise PackagingError(
                f"{bundle.name} is {size:,} bytes {what}, its budget is {budget:,}; largest: "
                + ", ".join(f"{name} {bytes_:,}" for bytes_, name in largest)
                + ". Drop a dependency, or raise the budget in bundles.py with a reason."
            )


def find_tool(name: str) -> str:
    """The tool beside this interpreter first: a virtual environment need not be activated."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise PackagingError(f"{name} is not installed; run `make setup`")
    return found


def _run(command: list[str], what: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackagingError(f"{what}: {' '.join(command[:4])}… said\n{done.stdout}{done.stderr}")
    return done.stdout
