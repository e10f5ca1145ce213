"""The zips: reproducible, whole, with nothing extra, and with byte code the runtime will use."""

from __future__ import annotations

import _imp
import ast
import json
import re
import struct
import zipfile
from functools import cache
from pathlib import Path

import pytest

from minutehand.deploy.build import build
from minutehand.deploy.bundles import BUNDLES, LAMBDA, Bundle
from minutehand.deploy.lockfile import read_lock
from minutehand.project import Project
from tests.artefact.conftest import Package
from tests.support.paths import ROOT
from tests.support.weekly import weekly

# the zips are built once, so by one test process
NAMES = [bundle.name for bundle in BUNDLES]
#: Python 3.13's magic number, 3571; byte code with any other is ignored and compiled again.
MAGIC_3_13 = (3571).to_bytes(2, "little") + b"\r\n"
UNCHECKED_HASH = 0b01
AARCH64 = 183

LICENCES = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|Mozilla Public License 2\.0|MPL-2\.0|MIT-0"
)


def source_hash(source: bytes) -> bytes:
    """What Python 3.13 writes into hash-based byte code; the hash is keyed by the magic number."""
    return _imp.source_hash(int.from_bytes(MAGIC_3_13, "little"), source)


@cache
def entries(package: Package, bundle: str) -> dict[str, bytes]:
    with zipfile.ZipFile(package.archive(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.weekly
def test_the_same_input_gives_the_same_hash(package: Package, tmp_path: Path) -> None:
    """Who audits a deployed hash must be able to rebuild it, in whatever order or one alone."""
    bundles = weekly(BUNDLES[::-1], otherwise=BUNDLES[-1:])
    again = build(bundles, LAMBDA, tmp_path, project=Project.at(ROOT))

    for built in again:
        assert built.sha256 == package.built[built.name].sha256


@pytest.mark.parametrize("bundle", NAMES)
def test_every_module_has_byte_code_that_python_313_takes_unchecked(
    package: Package, bundle: str
) -> None:
    """Else each cold start compiles everything anew: 1,069 ms instead of 411."""
    files = entries(package, bundle)
    sources = [name for name in files if name.endswith(".py")]
    wrong: dict[str, str] = {}
    for source in sources:
        folder, _, module = source.rpartition("/")
        cached = f"{folder}/__pycache__/".lstrip("/") + module.replace(".py", ".cpython-313.pyc")
        code = files.get(cached)
        if code is None:
            wrong[source] = "has no byte code"
        elif code[:4] != MAGIC_3_13:
            wrong[source] = "was compiled by another Python"
        elif struct.unpack("<I", code[4:8])[0] != UNCHECKED_HASH:
            wrong[source] = "is checked against its source"
        elif code[8:16] != source_hash(files[source]):
            wrong[source] = "is older than its source"

    assert len(sources) > 5
    assert wrong == {}


@pytest.mark.parametrize("bundle", NAMES)
def test_compiled_extensions_are_for_arm64_and_this_python(package: Package, bundle: str) -> None:
    """A wheel of the building machine imports there and nowhere else."""
    for name, content in entries(package, bundle).items():
        if ".so" in Path(name).suffixes:
            assert content[:4] == b"\x7fELF", name
            assert struct.unpack("<H", content[18:20])[0] == AARCH64, name
            assert "cpython-313-aarch64" in name or ".abi3." in name, name


@pytest.mark.parametrize("bundle", NAMES)
def test_nothing_extra_is_in_the_zip(package: Package, bundle: str) -> None:
    """No tests, stubs, tools, caches of other versions, environment files, or what Lambda has."""
    names = list(entries(package, bundle))
    extra = [
        name
        for name in names
        if ".dist-info/licenses/" not in name
        and re.search(
            r"(^|/)(tests?|bin|node_modules|infra|supabase|\.[^/]+)/"
            r"|\.(pyi|pyx|pxd|c|h|md|rst|env|toml\.lock|typed|map)$"
            r"|(^|/)(RECORD|INSTALLER|REQUESTED|WHEEL|direct_url\.json|uv_cache\.json|\.env.*)$"
            r"|cpython-3(?!13)\d+\.",
            name,
        )
    ]
    tops = {name.split("/")[0] for name in names}

    assert extra == []
    assert not tops & {"boto3", "botocore", "typer", "rich", "pytest", "moto", "supabase"}


def test_the_health_zip_has_no_web_framework(package: Package) -> None:
    """It answers probes in plain Python; what it does not import it does not carry."""
    tops = {name.split("/")[0] for name in entries(package, "health")}

    assert not tops & {"fastapi", "starlette", "mangum", "anyio.egg"}
    assert "functions" in tops


#: What the functions import, and what that imports: a new one is a decision, and a slower start.
DISTRIBUTIONS = {
    "health": {
        "annotated-types", "anyio", "certifi", "h11", "httpcore", "httpx", "idna",
        "opentelemetry-api", "pydantic", "pydantic-core", "tenacity", "typing-extensions",
        "typing-inspection",
    },
    "app": {
        "annotated-doc", "annotated-types", "anyio", "attrs", "certifi", "cffi", "cryptography",
        "fastapi", "h11", "httpcore", "httpx", "idna", "mangum", "opentelemetry-api",
        "price-parser", "pycparser", "pydantic", "pydantic-core", "pyjwt", "python-multipart",
        "starlette", "tenacity", "typing-extensions", "typing-inspection", "websockets",
    },
}  # fmt: skip


@pytest.mark.parametrize("bundle", NAMES)
def test_a_zip_holds_these_distributions_and_no_other(package: Package, bundle: str) -> None:
    """No command line, no local stack, and no HTTP/2, which nothing here speaks."""
    assert set(package.built[bundle].distributions) == DISTRIBUTIONS[bundle]


#: What only extras can import: middleware of applications, and the metrics of `serve`.
OF_EXTRAS = {
    "minutehand/functions/metrics.py",
    "minutehand/telemetry.py",
    "minutehand/worker/otel.py",
    "minutehand/worker/sentry.py",
}


@pytest.mark.parametrize("bundle", BUNDLES, ids=NAMES)
def test_the_zips_keep_to_their_budgets(package: Package, bundle: Bundle) -> None:
    """Lambda's own limit is far away; a slow download at every cold start is not."""
    built = package.built[bundle.name]

    assert built.zipped_bytes <= bundle.zipped_budget
    assert built.unzipped_bytes <= bundle.unzipped_budget


def test_every_import_of_the_functions_is_in_the_zip_or_in_the_runtime(package: Package) -> None:
    """A module that only the development environment has fails at the first cold start."""
    files = entries(package, "app")
    modules = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files
        if name.endswith(".py")
    } | {name.split(".")[0] for name in files if name.endswith(".so")}
    tops = {module.split(".")[0] for module in modules}
    import sys

    known = tops | set(sys.stdlib_module_names) | {"boto3", "botocore", "__future__"}
    missing: dict[str, set[str]] = {}
    for name, content in files.items():
        if name in OF_EXTRAS:
            continue
        if name.startswith(("functions/", "minutehand/")) and name.endswith(".py"):
            unknown = required(content) - known
            if unknown:
                missing[name] = unknown

    assert missing == {}


def required(source: bytes) -> set[str]:
    """Top-level modules that `source` imports outside of a `try`."""
    tree = ast.parse(source)
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.Try)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("bundle", NAMES)
def test_the_bill_of_materials_names_what_is_inside(package: Package, bundle: str) -> None:
    """Versions and hashes are the lock's; nothing installed is left out."""
    bom = json.loads((package.folder / f"{bundle}.cdx.json").read_text())
    lock = read_lock(ROOT / "requirements.lock")
    inside = {
        name.split("/")[0]
        for name in entries(package, bundle)
        if name.endswith(".dist-info/METADATA")
    }
    components = {c["name"]: c for c in bom["components"]}

    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert len(components) == len(inside)
    for name, component in components.items():
        assert component["version"] == lock[name].version
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert {p["value"] for p in component["properties"]} == set(lock[name].hashes)
    references = {component["bom-ref"] for component in components.values()}
    for dependency in bom["dependencies"]:
        assert set(dependency["dependsOn"]) <= references


@pytest.mark.parametrize("bundle", NAMES)
def test_every_licence_is_one_we_may_ship(package: Package, bundle: str) -> None:
    """A copyleft or unknown licence is a question for a person before it is a release."""
    lines = (package.folder / f"{bundle}.licences.tsv").read_text().splitlines()[1:]
    odd = [line for line in lines if not LICENCES.search(line.split("\t")[2])]

    assert lines
    assert odd == []


@pytest.mark.parametrize("bundle", NAMES)
def test_licence_texts_travel_with_the_code(package: Package, bundle: str) -> None:
    """Most of these licences ask for their text to be kept with every copy."""
    names = entries(package, bundle)
    with_text = {name.split("/")[0] for name in names if re.search("licen|copying", name, re.I)}
    distributions = {name.split("/")[0] for name in names if name.endswith("METADATA")}

    # mangum and a few others publish wheels without their text; the list names their licence
    assert len(distributions - with_text) <= 3


@pytest.mark.parametrize("bundle", NAMES)
def test_no_secret_is_in_the_zip(package: Package, bundle: str) -> None:
    """Neither a real one nor the development stack's."""
    pattern = re.compile(
        rb"sb_secret_(?!x{16})[A-Za-z0-9]{10,}|eyJ[A-Za-z0-9_-]{20,}\.eyJ"
        rb"|-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}"
        rb"|dev-secret-token|dev-background-token|minutehand-demo"
    )
    found = [
        name
        for name, content in entries(package, bundle).items()
        if name.startswith(("functions/", "minutehand/")) and pattern.search(content)
    ]

    assert found == []


@pytest.mark.parametrize("bundle", NAMES)
def test_entries_are_plain_files_with_fixed_modes_and_times(package: Package, bundle: str) -> None:
    """Lambda needs them readable; reproducibility needs them equal."""
    with zipfile.ZipFile(package.archive(bundle)) as archive:
        infos = archive.infolist()

    assert [info.filename for info in infos] == sorted(info.filename for info in infos)
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}
    assert {info.external_attr >> 16 for info in infos} <= {0o100644, 0o100755}
