"""Builds bundles: files, locked wheels, byte code, zip, inventory; checks each against its budget.

Needs a package registry or uv's cache, never a cloud account.
"""

from __future__ import annotations

import hashlib
import json
import platform
import py_compile
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import MAGIC_NUMBER
from pathlib import Path

from packaging.utils import canonicalize_name

from minutehand.app import find_apps
from minutehand.deploy import bytecode
from minutehand.deploy.archive import prune, tree_size, write_zip
from minutehand.deploy.bundles import LAMBDA, RUNTIME_MODULES, Bundle, PackagingError, Target
from minutehand.deploy.bytecode import compile_trees
from minutehand.deploy.imports import Sources, closure, third_party
from minutehand.deploy.inventory import bill_of_materials, licence_table, read_metadata
from minutehand.deploy.lockfile import OURSELVES, Locked, find_lock, read_project_lock, select
from minutehand.deploy.tools import run_tool, uv
from minutehand.node import node_binary, script
from minutehand.project import Project
from minutehand.resources import PACKAGE, checkout, resource
from minutehand.version import VERSION

#: Found at run time beside the code; everything else in a package is source or text for people.
DATA_SUFFIXES = frozenset({".py", ".json", ".txt", ".csv", ".sql", ".html", ".jinja", ".toml"})

#: The parts of this package that functions import; the command and the local stack stay here.
PARTS = ("ai", "aws", "functions", "queue", "web", "webhooks", "worker")
#: Where HTTP/2 is an option that is off, and what only it needs.
HTTP = frozenset({"httpx", "httpcore"})
HTTP2 = frozenset({"h2", "hpack", "hyperframe"})
#: What an app brings for other places than a function.
NOT_ON_LAMBDA = frozenset({"console", "demo", "examples", "local", "migrations", "seeds", "verbs"})


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
    #: Of the first-party files and the lock; shows whether a zip is older than the sources.
    sources_sha256: str
    #: Of all it depends on: those, the target, and what builds it.
    made_of: str
    distributions: dict[str, str]


def host_target() -> Target:
    """This machine and this interpreter: for tests that run the zip.

    Where that is Lambda's Python, its byte code comes from Lambda's compiler and is proven by it.
    """
    minor = platform.python_version().rsplit(".", 1)[0]
    compiler = LAMBDA.compiler if minor == LAMBDA.python else "host"
    return Target("host", minor, None, compiler)


def sources_of(project: Project) -> Sources:
    """Where this package, the project's own packages and its handlers are imported from."""
    apps = find_apps(project.apps)
    parents = {app.folder.parents[app.package.count(".")] for app in apps}
    parents = {parent for parent in parents if "site-packages" not in parent.parts}
    roots = sorted({*project.import_roots, *parents} - {PACKAGE.parent}, reverse=True)
    tops = {"minutehand", *(app.package.partition(".")[0] for app in apps)}
    tops.update(name for root in roots for name in _python_names(root))
    return Sources((PACKAGE.parent, *roots), frozenset(tops))


def _python_names(root: Path) -> Iterator[str]:
    """What can be imported from `root`: its modules, and folders with Python files in them."""
    for path in root.iterdir():
        if path.suffix == ".py":
            yield path.stem
        elif path.is_dir() and path.name.isidentifier() and any(path.glob("*.py")):
            yield path.name


def source_files(bundle: Bundle, project: Project) -> list[Path]:
    """The first-party files of `bundle`, relative order fixed."""
    sources = sources_of(project)
    modules = {*bundle.handlers, *own_handlers(bundle, project)}
    files: set[Path] = set()
    if "health" in bundle.functions:
        # found by name at run time, see minutehand.functions.health.apps
        checked = [app for app in find_apps(project.apps) if app.has("health")]
        modules.update(f"{app.package}.health" for app in checked)
    if bundle.apps:
        folders = [PACKAGE / part for part in PARTS]
        folders += [app.folder for app in find_apps(project.apps)]
        files = {
            path for folder in folders for path in folder.rglob("*") if _is_needed(path, folder)
        }
        # what an app imports of the project's other packages, and those around it
        modules.update(sources.module_name(file) for file in files if file.suffix == ".py")
    return sorted(files | set(closure(modules, sources)))


def own_handlers(bundle: Bundle, project: Project) -> list[str]:
    """The thin handlers of this repository, which take precedence over those of the package."""
    names = [f"functions.{name}.handler" for name in bundle.functions]
    return names if checkout() == project.root else []


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
    """One hash of `files` and of the locked packages."""
    whole = hashlib.sha256()
    sources = sources_of(project)
    named = [(sources.place(file).as_posix(), file) for file in files]
    lock = find_lock(project.root)
    for name, file in (*named, (lock.name, lock)):
        whole.update(name.encode() + b"\0")
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def locked_for(files: Iterable[Path], project: Project) -> list[Locked]:
    """The locked distributions that `files` need at run time.

    What no lock knows is omitted: an import inside a `try` may miss.
    """
    entries = read_project_lock(project.root)
    direct = {name for name, entry in entries.items() if OURSELVES & entry.parents}
    roots: set[str] = set()
    for names in third_party(files, sources_of(project)).values():
        known = names & entries.keys()
        roots |= known & direct or known
    return select(entries, roots, skip={canonicalize_name(name) for name in RUNTIME_MODULES})


def build(
    bundles: Iterable[Bundle], target: Target, out: Path, *, project: Project | None = None
) -> list[Built]:
    """Build `bundles` for `target` into `out` and return what each became.

    Their bytes do not depend on which are built together; together is quicker. One that is there,
    made of the same, stays.

    Raises:
        PackagingError: A tool failed, or a result is over its budget.
    """
    project = project or Project.find()
    plans = [_plan(bundle, target, project) for bundle in bundles]
    built = {plan.bundle.name: kept for plan in plans if (kept := _kept(plan, out))}
    parts = [_assemble(p, target, out, project) for p in plans if p.bundle.name not in built]
    if parts:
        python, magic = _compile([part.tree for part in parts], target)
        built |= {p.plan.bundle.name: _seal(p, out, python=python, magic=magic) for p in parts}
    return [built[plan.bundle.name] for plan in plans]


@dataclass(frozen=True)
class _Plan:
    """A bundle, and what it is to be made of."""

    bundle: Bundle
    files: list[Path]
    sources_sha256: str
    made_of: str


@dataclass(frozen=True)
class _Assembled:
    """A bundle's tree before its byte code."""

    plan: _Plan
    tree: Path
    locked: list[Locked]


def _plan(bundle: Bundle, target: Target, project: Project) -> _Plan:
    files = source_files(bundle, project)
    sources = sources_hash(files, project)
    named = (bundle, target, VERSION, platform.python_version(), sources)
    made_of = hashlib.sha256(repr(named).encode())
    builders = sorted(path for path in Path(__file__).parent.iterdir() if path.is_file())
    for path in (*builders, resource("node") / "package-lock.json"):  # which pins the compiler
        made_of.update(path.read_bytes())
    return _Plan(bundle, files, sources, made_of.hexdigest())


def _kept(plan: _Plan, out: Path) -> Built | None:
    """What an earlier build left, if it is whole and was made of the same."""
    name = plan.bundle.name
    try:
        built = Built(**json.loads((out / f"{name}.manifest.json").read_text("utf-8")))
        found = hashlib.sha256((out / built.archive).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError):  # none, half of one, or another release's
        return None
    same = (built.made_of, built.sha256) == (plan.made_of, found)
    return built if same and (out / name).is_dir() else None


def _assemble(plan: _Plan, target: Target, out: Path, project: Project) -> _Assembled:
    sources, files = sources_of(project), plan.files
    tree = out / plan.bundle.name
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    locked = locked_for(files, project)
    _install(locked, target, tree, out)
    prune(tree)
    drop_http2(tree, files)
    for file in files:
        copy = tree / sources.place(file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return _Assembled(plan, tree, locked)


def _seal(part: _Assembled, out: Path, *, python: str, magic: str) -> Built:
    plan, tree = part.plan, part.tree
    name = plan.bundle.name
    archive = out / f"{name}.zip"
    digest = write_zip(tree, archive)
    metadata = read_metadata(tree)
    present = [entry for entry in part.locked if canonicalize_name(entry.name) in metadata]
    bom = bill_of_materials(name, VERSION, present, metadata)
    (out / f"{name}.cdx.json").write_text(json.dumps(bom, indent=2) + "\n", "utf-8")
    (out / f"{name}.licences.tsv").write_text(licence_table(present, metadata), "utf-8")
    built = Built(
        name=name,
        archive=archive.name,
        sha256=digest,
        zipped_bytes=archive.stat().st_size,
        unzipped_bytes=tree_size(tree),
        python=python,
        magic=magic,
        sources_sha256=plan.sources_sha256,
        made_of=plan.made_of,
        distributions={entry.name: entry.version for entry in present},
    )
    _within_budget(plan.bundle, built, tree)
    (out / f"{name}.manifest.json").write_text(json.dumps(asdict(built), indent=2) + "\n", "utf-8")
    return built


def _install(locked: list[Locked], target: Target, tree: Path, out: Path) -> None:
    if not locked:
        return
    listing = out / f"{tree.name}.requirements.txt"
    listing.write_text("".join(entry.text for entry in locked), "utf-8")
    command = [
        uv(), "pip", "install", "--quiet", "--require-hashes", "--no-deps",
        "--only-binary", ":all:", "--link-mode", "copy", "--no-config",
        "--target", str(tree), "--python-version", target.python, "--python", sys.executable,
        "-r", str(listing),
    ]  # fmt: skip
    if target.platform is not None:
        command += ["--python-platform", target.platform]
    run_tool(command, "the locked wheels could not be installed")


def drop_http2(tree: Path, files: Iterable[Path]) -> None:
    """Remove HTTP/2 from `tree` unless something there or in `files` switches it on.

    Clients ask for `httpx[http2]` and leave it to their callers whether to speak it.
    """
    installed = [path for path in tree.rglob("*.py") if path.parts[len(tree.parts)] not in HTTP]
    if any(b"http2=True" in path.read_bytes() for path in (*installed, *files)):
        return
    for path in tree.iterdir():
        if path.name.partition("-")[0] in HTTP2:
            shutil.rmtree(path)


def _compile(trees: list[Path], target: Target) -> tuple[str, str]:
    """Write the byte code of all trees; return the version and the magic of what compiled it."""
    if target.compiler == "host":
        try:
            compile_trees(trees)
        except py_compile.PyCompileError as error:
            raise PackagingError(f"the byte code could not be compiled: {error}") from error
        return platform.python_version(), MAGIC_NUMBER.hex()
    command = [
        str(node_binary()), str(script("minutehand/deploy/compile.mjs")),
        target.python, bytecode.__file__,
        *map(str, trees),
    ]  # fmt: skip
    output = run_tool(command, "the byte code could not be compiled")
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
