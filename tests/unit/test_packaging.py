"""What the packager reads of a project, what goes into a zip, and what travels with it."""

from __future__ import annotations

import hashlib
import inspect
import json
import marshal
import platform
import py_compile
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Mapping
from importlib.util import cache_from_source
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pytest
import yaml

from minutehand.app import App
from minutehand.config import ConfigurationError
from minutehand.deploy import package, tools
from minutehand.deploy.apps import Needs, read_needs
from minutehand.deploy.archive import prune, tree_size, write_zip
from minutehand.deploy.build import (
    Built,
    build,
    drop_http2,
    host_target,
    locked_for,
    own_handlers,
    source_files,
    sources_hash,
    sources_of,
)
from minutehand.deploy.bundles import BUNDLES, LAMBDA, Bundle, PackagingError, Target
from minutehand.deploy.bytecode import compile_trees
from minutehand.deploy.imports import Sources, closure, third_party
from minutehand.deploy.inventory import bill_of_materials, licence_table, read_metadata
from minutehand.deploy.lockfile import Locked, parse_lock, read_project_lock, select
from minutehand.deploy.parameters import (
    WORKER_SIGN_IN,
    missing_for,
    secrets_of,
    write_parameters,
)
from minutehand.deploy.service import needs_of, read_stages, write_service
from minutehand.deploy.tools import find_tool, run_tool
from minutehand.node import NodeMissing
from minutehand.project import Project
from minutehand.resources import PACKAGE
from minutehand_apps.beacon.settings import BeaconSettings
from minutehand_apps.enrichment.settings import ApolloSettings
from minutehand_apps.training.settings import TrainingSettings
from tests.support.paths import ROOT

LOCK = """# compiled
httpx[http2]==0.28.1 \\
    --hash=sha256:{a}
    # via -r requirements.in
minutehand @ file:///dist/minutehand-0.1.0-py3-none-any.whl \\
    --hash=sha256:{b}
    # via -r requirements.in
minutehand-local==0.1.0 \\
    --hash=sha256:{b}
    # via minutehand
minutehand-apps==0.1.0
minutehand==0.1.0
-e .

# what those need
anyio==4.16.0 ; python_version >= "3.8" \\

# a note of somebody's
    --hash=sha256:{c}
    # via
    #   httpx
    #   starlette
""".format(a="a" * 64, b="b" * 64, c="c" * 64)


class Placed(App):
    """An app in a folder that is not imported."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.name)
        self.__dict__["folder"] = folder


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """A folder of these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_local_wheel_in_a_lock_is_left_out_with_its_hashes() -> None:
    """Its lines must not be taken for those of the distribution before it."""
    entries = parse_lock(LOCK)

    assert list(entries) == ["httpx", "anyio"]
    assert entries["httpx"].hashes == [f"sha256:{'a' * 64}"]
    assert entries["httpx"].parents == {"-r"}
    assert entries["anyio"].parents == {"httpx", "starlette"}
    assert (entries["anyio"].name, entries["anyio"].version) == ("anyio", "4.16.0")
    first, pinned = entries["anyio"].text.splitlines()
    assert first == 'anyio==4.16.0 ; python_version >= "3.8" \\'
    assert pinned == f"    --hash=sha256:{'c' * 64}"


def test_what_a_wheel_needs_through_others_is_packaged_and_what_is_skipped_is_not() -> None:
    """Missing, it would be missing on Lambda and nowhere else."""
    entries = {
        name: Locked(name, "1.0", parents=parents)
        for name, parents in {
            "httpx": {"-r requirements.in"},
            "httpcore": {"httpx"},
            "h11": {"httpcore"},
            "boto3": {"httpcore"},
            "botocore": {"boto3"},
            "pytest": {"-r requirements.in"},
            "fastapi": {"-r requirements.in"},
            "python-multipart": {"-r requirements.in"},  # imported by name at run time
        }.items()
    }

    def chosen(root: str) -> list[str]:
        return [each.name for each in select(entries, [root], skip=["boto3"])]

    assert chosen("httpx") == ["h11", "httpcore", "httpx"]
    assert chosen("fastapi") == ["fastapi", "python-multipart"]
    del entries["python-multipart"]
    assert chosen("fastapi") == ["fastapi"]
    assert chosen("boto3") == []
    with pytest.raises(LookupError, match=r"not in requirements\.lock: idna, trio; add"):
        select(entries, ["trio", "idna"], skip=[])


def test_a_project_without_a_lock_is_shown_how_to_write_one(tmp_path: Path) -> None:
    """No version may be picked behind somebody's back."""
    with pytest.raises(PackagingError, match=r"has no lock.*uv lock"):
        read_project_lock(tmp_path)


@pytest.mark.parametrize("line", ["httpx>=0.28", "httpx==0.*"])
def test_a_lock_with_an_open_version_is_refused(tmp_path: Path, line: str) -> None:
    """What would be shipped depended on the day of packaging."""
    (tmp_path / "requirements.txt").write_text(f"{line}\n")

    with pytest.raises(PackagingError, match=f"'{re.escape(line)}' is not pinned"):
        read_project_lock(tmp_path)


def test_what_only_type_checkers_import_is_not_packaged(tmp_path: Path) -> None:
    """It is never loaded, and its distributions would only lengthen the cold start."""
    file = tmp_path / "jobs.py"
    file.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import boto3\n"
        "else:\n    import httpx\n    if x:\n        import jwt\n"
    )

    assert set(third_party([file], Sources((tmp_path,), frozenset({"jobs"})))) == {"httpx", "jwt"}


def test_a_module_is_traced_to_the_distribution_that_brings_it(tmp_path: Path) -> None:
    """As the lock names it; of the files alone that are Python."""
    files = {
        "jobs/a.py": "from __future__ import annotations\nimport json, yaml, no_one_has.this\n"
        "from . import b\nfrom jobs.b import c\n",
        "jobs/page.html": "<p>",
    }
    tree(tmp_path, files)

    found = third_party(
        [tmp_path / name for name in files], Sources((tmp_path,), frozenset({"jobs"}))
    )

    assert found == {"yaml": {"pyyaml"}, "no_one_has": set()}


def test_imports_in_any_block_are_found(tmp_path: Path) -> None:
    """In a function, a `try`, its handler, a `match`, a `with`."""
    file = tmp_path / "jobs.py"
    file.write_text(
        "def f(x):\n    try:\n        import httpx\n    except ImportError:\n"
        "        import pydantic as p\n    finally:\n        from tenacity import retry\n"
        "    match x:\n        case 1:\n            with x:\n                import jwt\n"
    )

    found = set(third_party([file], Sources((tmp_path,), frozenset({"jobs"}))))

    assert found == {"httpx", "pydantic", "tenacity", "jwt"}


def test_byte_code_that_trees_share_is_the_same_and_else_each_has_its_own(tmp_path: Path) -> None:
    """The same source at the same place is compiled once; one that differs is not taken for it."""
    for tree, text in (("one", "x = 1\n"), ("other", "x = 2\n")):
        (tmp_path / tree / "part").mkdir(parents=True)
        for name in ("same.py", "more.py"):
            (tmp_path / tree / "part" / name).write_text("def f() -> None:\n    pass\n")
        (tmp_path / tree / "differs.py").write_text(text)

    compile_trees([tmp_path / "one", tmp_path / "other"])

    def code(tree: str, name: str) -> CodeType:
        content = Path(cache_from_source(str(tmp_path / tree / name))).read_bytes()
        assert struct.unpack("<I", content[4:8]) == (0b01,), "is checked against its source"
        loaded = marshal.loads(content[16:])
        assert isinstance(loaded, CodeType)
        return loaded

    for tree, value in (("one", 1), ("other", 2)):
        assert code(tree, "part/same.py").co_filename == "/var/task/part/same.py"
        assert code(tree, "part/more.py").co_filename == "/var/task/part/more.py"
        assert value in code(tree, "differs.py").co_consts


def test_a_file_that_is_not_python_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "jobs.py").write_text("def\n")

    with pytest.raises(py_compile.PyCompileError, match=r"jobs\.py"):
        compile_trees([tmp_path])


def test_the_requests_of_apps_add_up(tmp_path: Path) -> None:
    """Variables, secrets and rights of each; two meanings of one name are refused."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    (one / "lambda.yml").write_text(
        "parameters: {size: 1}\nlocal: {MOCK: 'true', KEY: ''}\n"
        "functions: {worker: {environment: {SIZE: '${param:size}'}, secrets: [KEY],"
        " statements: [{Sid: A, Effect: Allow, Action: 's3:GetObject', Resource: '*'}]}}\n"
    )
    (other / "lambda.yml").write_text(
        "functions: {worker: {secrets: [KEY, OTHER], statements: [{Sid: B}]},"
        " status: {environment: {A: '1'}}, health: {}}\n"
    )
    (tmp_path / "silent").mkdir()

    needs = read_needs([Placed(tmp_path / "silent"), Placed(one), Placed(other)])

    assert needs.secrets("worker") == ("KEY", "OTHER")
    assert needs.secrets("jobs") == ()
    assert needs.all_secrets == {"KEY", "OTHER"}
    assert needs.variables({"KEY": "mine", "MORE": "no"}) == {"MOCK": "true", "KEY": "mine"}
    service = needs.service()
    assert service["functions"] == {
        "worker": {"environment": {"SIZE": "${param:size}"}},
        "status": {"environment": {"A": "1"}},
    }
    right = {"Sid": "A", "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    assert service["resources"]["Resources"] == {
        "WorkerPolicyOfApps": {
            "Type": "AWS::IAM::Policy",
            "Properties": {
                "PolicyName": "apps",
                "Roles": [{"Ref": "WorkerRole"}],
                "PolicyDocument": {"Version": "2012-10-17", "Statement": [right, {"Sid": "B"}]},
            },
        }
    }
    (other / "lambda.yml").write_text("parameters: {size: 2}\n")
    with pytest.raises(ConfigurationError, match="gives size the value 2; another app gives 1"):
        read_needs([Placed(one), Placed(other)])
    for meaning in ("local: {MOCK: 'false'}", "functions: {worker: {environment: {SIZE: '2'}}}"):
        (other / "lambda.yml").write_text(meaning)
        with pytest.raises(ConfigurationError, match="another app gives"):
            read_needs([Placed(one), Placed(other)])
    for wrong in ("functions: {wroker: {}}", "functions: {jobs: {rights: []}}", "more: 1", "a: ["):
        (other / "lambda.yml").write_text(wrong)
        with pytest.raises(ConfigurationError, match=r"lambda\.yml is not valid") as refused:
            read_needs([Placed(other)])
        assert "parameters: {}" in str(refused.value)
    (other / "lambda.yml").write_text("# nothing\n")
    assert read_needs([Placed(other)]) == Needs()


def test_a_stage_starts_from_the_package_and_the_project_overrides(tmp_path: Path) -> None:
    """A project's file stays short, and a new parameter of a release has its default."""
    (tmp_path / "minutehand.stages.yml").write_text(
        "default: {alarmEmail: a@b.example}\nprod: {budgetUSD: 7}\ndev:\n7: {}\n"
    )

    stages = read_stages(Project.at(tmp_path))

    assert stages["default"]["alarmEmail"] == "a@b.example"
    assert stages["default"]["workerTimeout"] == 300
    assert (stages["prod"], stages["dev"], stages["7"]) == ({"budgetUSD": 7}, {}, {})
    (tmp_path / "minutehand.toml").write_text('apps = ["minutehand_apps.training"]\n')
    asked = read_needs([App("minutehand_apps.training")]).parameters
    name = next(iter(asked))
    assert read_stages(Project.at(tmp_path))["default"][name] == asked[name]
    (tmp_path / "minutehand.stages.yml").write_text(f"default: {{{name}: theirs}}\n")
    assert read_stages(Project.at(tmp_path))["default"][name] == "theirs"
    for text, said in (("prod: 3\n", "must map stages"), ("- a\n", "must map"), ("a: [", "YAML")):
        (tmp_path / "minutehand.stages.yml").write_text(text)
        with pytest.raises(ConfigurationError, match=rf"{said}[\s\S]*prod: \{{\}}"):
            read_stages(Project.at(tmp_path))
    (tmp_path / "minutehand.stages.yml").unlink()
    with pytest.raises(ConfigurationError, match=r"does not exist.*prod: \{\}"):
        read_stages(Project.at(tmp_path))


def test_a_handler_takes_what_it_reaches_and_no_more(tmp_path: Path) -> None:
    """By relative imports and through packages, in each folder; two may import each other."""
    tree(
        tmp_path,
        {
            "one/app/__init__.py": "",
            "one/app/handler.py": "from . import near\nfrom .deep.below import x\nimport json",
            "one/app/near.py": "import httpx\nimport other.thing",
            "one/app/deep/__init__.py": "",
            "one/app/deep/below.py": "from ..sideways import y",
            "one/app/sideways.py": "",
            "one/app/unused.py": "",
            "one/foreign.py": "",
            "two/other/__init__.py": "",
            "two/other/thing.py": "from app import handler\nimport foreign",
            "two/other/unused.py": "",
        },
    )
    sources = Sources((tmp_path / "two", tmp_path / "one"), frozenset({"app", "other"}))

    found = closure(["app.handler"], sources)

    assert [sources.module_name(file) for file in found] == [
        "app", "app.deep", "app.deep.below", "app.handler", "app.near", "app.sideways",
        "other", "other.thing",
    ]  # fmt: skip
    for elsewhere in ("three.py", "one/foreign.py"):
        with pytest.raises(ValueError, match="is in none of"):
            sources.place(tmp_path / elsewhere)
    (tmp_path / "one/app/near.py").write_text("import json\nimport (httpx)\n")
    with pytest.raises(PackagingError, match=r"app/near\.py:2 cannot be read: invalid syntax"):
        closure(["app.handler"], sources)


KEPT = {
    "bin.py", "wheel/__init__.py", "wheel/data.json", "wheel/fast.so", "wheel/test.py",
    "wheel-1.dist-info/METADATA", "wheel-1.dist-info/entry_points.txt",
    "wheel-1.dist-info/licenses/NOTICE.md", "wheel-1.dist-info/LICENSE", "wheel/LICENSE.txt",
}  # fmt: skip
DROPPED = {
    "bin/tool", "wheel/tests/data.json", "wheel/test/data.json", ".lock",
    *(f"wheel/a.{kind}" for kind in ("pyi", "pyx", "pxd", "c", "h", "typed", "md", "rst")),
    "wheel/__pycache__/a.pyc", "wheel-1.dist-info/RECORD", "wheel-1.dist-info/top.txt",
    "wheel-1.dist-info/deep/METADATA.txt",
}  # fmt: skip


def test_a_zip_is_what_functions_read_and_the_same_each_time(tmp_path: Path) -> None:
    """The licence travels along; order, instants and modes are fixed, whatever the machine's."""
    one = tree(tmp_path / "one", dict.fromkeys(sorted(KEPT | DROPPED), "x"))
    other = tree(tmp_path / "other", dict.fromkeys(sorted(KEPT, reverse=True), "x"))
    (other / "bin.py").chmod(0o600)

    assert {path.relative_to(one).as_posix() for path in prune(one)} == DROPPED
    assert not (one / "wheel" / "tests").exists()
    archives = [tmp_path / "one.zip", tmp_path / "other.zip"]
    first, second = (
        write_zip(folder, to) for folder, to in zip((one, other), archives, strict=True)
    )

    assert first == second == hashlib.sha256(archives[0].read_bytes()).hexdigest()
    with zipfile.ZipFile(archives[0]) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == sorted(KEPT)
    assert {info.compress_type for info in infos} == {zipfile.ZIP_DEFLATED}
    assert {(info.create_system, info.date_time) for info in infos} == {(3, (1980, 1, 1, 0, 0, 0))}
    modes = {info.filename: info.external_attr >> 16 for info in infos}
    assert (modes.pop("wheel/fast.so"), set(modes.values())) == (0o100755, {0o100644})
    assert tree_size(one) == len(KEPT)


@pytest.mark.parametrize(
    ("metadata", "licence", "home"),
    [
        (
            "License-Expression: MIT\nLicense: old\nClassifier: License :: OSI Approved :: BSD\n"
            "Home-page: https://home\nProject-URL: Source, https://source",
            "MIT",
            "https://home",
        ),
        (
            "Classifier: License :: OSI Approved :: BSD\nClassifier: License :: Apache\n"
            "Classifier: Topic :: Internet\nLicense: text\n"
            "Project-URL: Changes, https://changes\nProject-URL: Source, https://source",
            "Apache OR BSD",
            "https://source",
        ),
        (
            "License: ISC\n  in full\nProject-URL: no address\nProject-URL: Docs, https://docs",
            "ISC",
            "https://docs",
        ),
        *(
            (
                f"Project-URL: Docs, https://d\nProject-URL: {label}, https://x",
                "unknown",
                "https://x",
            )
            for label in ("Homepage", "Repository", "homepage", "source", "repository")
        ),
        ("Summary: none", "unknown", "-"),
    ],
)
def test_a_licence_is_as_its_distribution_states_it(
    metadata: str, licence: str, home: str, tmp_path: Path
) -> None:
    """Its expression before its classifiers, and those before free text."""
    tree(tmp_path, {"one_two-1.dist-info/METADATA": f"Name: One.Two\n{metadata}\n"})
    locked = [Locked("one-two", "1"), Locked("absent", "2")]

    table = licence_table(locked, read_metadata(tmp_path))

    assert table == f"name\tversion\tlicence\thome\none-two\t1\t{licence}\t{home}\n"


def test_the_bill_of_materials_says_what_needs_what(tmp_path: Path) -> None:
    """The same zip has the same serial number, and another has another."""
    tree(tmp_path, {f"{name}-1.dist-info/METADATA": f"Name: {name}\n" for name in ("a", "b")})
    locked = [Locked("a", "1", hashes=["sha256:x"]), Locked("b", "1", parents={"a"})]
    about = read_metadata(tmp_path)

    bom = bill_of_materials("app", "3", locked, about)

    serial = bom.pop("serialNumber")
    assert serial.startswith("urn:uuid:")
    assert bom == {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "pkg:generic/minutehand-app@3",
                "name": "minutehand-app",
                "version": "3",
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{name}@1",
                "name": name,
                "version": "1",
                "purl": f"pkg:pypi/{name}@1",
                "licenses": [{"license": {"name": "unknown"}}],
                "properties": [{"name": "minutehand:locked-hash", "value": "sha256:x"}][:hashes],
            }
            for name, hashes in (("a", 1), ("b", 0))
        ],
        "dependencies": [
            {"ref": "pkg:generic/minutehand-app@3", "dependsOn": ["pkg:pypi/a@1", "pkg:pypi/b@1"]},
            {"ref": "pkg:pypi/a@1", "dependsOn": ["pkg:pypi/b@1"]},
            {"ref": "pkg:pypi/b@1", "dependsOn": []},
        ],
    }
    changed = [("app", "3", locked[:1]), ("app", "4", locked), ("web", "3", locked)]
    serials = {bill_of_materials(*each, about)["serialNumber"] for each in changed}
    assert bill_of_materials("app", "3", locked, about)["serialNumber"] == serial
    assert len(serials | {serial}) == 4


@pytest.mark.parametrize(
    ("file", "text", "kept"),
    [
        ("client.py", "AsyncClient(http2=True)", True),
        ("client.py", "AsyncClient(http2=False)", False),
        # where it is an option, it is named
        ("httpx/client.py", "http2=True", False),
    ],
)
def test_http2_is_packaged_where_it_is_switched_on(
    file: str, text: str, kept: bool, tmp_path: Path
) -> None:
    """Clients ask for it and leave it to their callers; else it only lengthens a cold start."""
    parts = ("h2", "h2-4.dist-info", "hpack", "hyperframe")
    tree(tmp_path, {file: text, **dict.fromkeys((f"{part}/a" for part in parts), "")})

    drop_http2(tmp_path, [])

    assert [(tmp_path / part).exists() for part in parts] == [kept] * 4
    drop_http2(tree(tmp_path, {"h2/a": ""}), [tree(tmp_path / "own", {"a": "http2=True"}) / "a"])
    assert (tmp_path / "h2").exists()


def test_only_what_is_built_for_lambda_may_be_deployed() -> None:
    """Its Python and its processor; a zip for this machine is for tests."""
    assert Target("lambda", "3.13", "aarch64-manylinux_2_28", "pyodide") == LAMBDA
    assert (LAMBDA.is_lambda, host_target().is_lambda) == (True, False)


@pytest.mark.parametrize(
    ("version", "target"),
    [
        ("3.13.2", Target("host", "3.13", None, "pyodide")),
        ("3.11.7", Target("host", "3.11", None, "host")),
    ],
)
def test_where_this_machine_runs_lambdas_python_lambdas_compiler_is_tried(
    version: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zip that runs here then proves the byte code that is deployed."""
    monkeypatch.setattr(platform, "python_version", lambda: version)

    assert host_target() == target


def test_each_zip_has_its_functions_and_its_budget() -> None:
    """The probe's zip stays the small one; a larger one needs a reason beside its number."""
    assert [
        (each.name, each.functions, each.apps, each.zipped_budget >> 20, each.unzipped_budget >> 20)
        for each in BUNDLES
    ] == [
        ("app", ("jobs", "status", "worker"), True, 14, 45),
        ("health", ("health",), False, 10, 30),
    ]
    assert BUNDLES[1].handlers == ("minutehand.functions.health.handler",)


def test_the_thin_handlers_are_those_of_this_repository_alone(tmp_path: Path) -> None:
    """A project has none of its own, and a file of that name there is not ours."""
    health = BUNDLES[1]
    tree(tmp_path, {"minutehand.toml": "", "functions/health/handler.py": ""})

    assert own_handlers(health, Project.at(ROOT)) == ["functions.health.handler"]
    assert own_handlers(health, Project.at(tmp_path)) == []


def test_an_app_of_the_projects_is_taken_from_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also beside the project; one that is installed has its folder among the wheels."""
    apart, installed = tmp_path / "apart", tmp_path / "site-packages"
    monkeypatch.setattr(sys, "path", [*sys.path, str(apart), str(installed)])
    tree(apart, {"acme_apart/__init__.py": "", "acme_apart/deep/__init__.py": ""})
    tree(installed, {"acme_installed/__init__.py": ""})
    files = {
        "minutehand.toml": 'apps = ["acme_apart.deep", "acme_installed"]\n',
        "own.py": "", "notes.txt": "", "shop/a.py": "", "not-a-name/a.py": "", "empty/a.txt": "",
    }  # fmt: skip

    sources = sources_of(Project.at(tree(tmp_path / "project", files)))

    assert sources.roots == (PACKAGE.parent, tmp_path / "project", apart)
    assert sources.tops == {"minutehand", "acme_apart", "acme_installed", "own", "shop"}


def test_of_an_app_a_zip_takes_what_runs_there(tmp_path: Path, monkeypatch: Any) -> None:
    """With what it imports of the project's packages; neither its tests, console nor SQL."""
    monkeypatch.syspath_prepend(tmp_path / "src")
    taken = {
        "acme_shop/__init__.py", "acme_shop/jobs/__init__.py", "acme_shop/jobs/processors.py",
        "acme_shop/prices.py",
        *(f"acme_shop/jobs/data.{kind}" for kind in ("html", "json", "txt", "csv", "sql", "toml")),
        "acme_shop/jobs/data.jinja",
    }  # fmt: skip
    files = dict.fromkeys(sorted(f"src/{name}" for name in taken), "")
    files["src/acme_shop/jobs/processors.py"] = "from acme_shop import prices"
    left = (
        "jobs/console/a.html", "jobs/verbs.py", "jobs/migrations/1.sql", "jobs/test_a.py",
        "jobs/.hidden/a.py", "jobs/film.mp4", "unused.py", "jobs/demo.py", "jobs/examples/a.csv",
        "jobs/local.py", "jobs/seeds/1.sql", "jobs/__pycache__/a.json",
    )  # fmt: skip
    files |= {f"src/acme_shop/{name}": "" for name in left}
    files["minutehand.toml"] = 'apps = ["acme_shop.jobs"]\nsource = "src"\n'
    project = Project.at(tree(tmp_path, files))
    app, health = BUNDLES

    def own(bundle: Bundle) -> set[str]:
        found = source_files(bundle, project)
        assert bundle.apps or not any("web" in path.parts for path in found)
        assert not any("cli" in path.parts for path in found)
        root = tmp_path / "src"
        return {path.relative_to(root).as_posix() for path in found if path.is_relative_to(root)}

    assert own(app) == taken
    whole = {path for path in source_files(app, project) if path.is_relative_to(PACKAGE)}
    for part in ("ai", "aws", "functions", "queue", "web", "webhooks", "worker"):
        assert {*(PACKAGE / part).rglob("*.py")} <= whole, part
    tree(tmp_path, {"src/acme_shop/jobs/health.py": ""})
    packages = {"acme_shop/__init__.py", "acme_shop/jobs/__init__.py"}
    assert own(health) == {*packages, "acme_shop/jobs/health.py"}


def test_a_zip_holds_of_the_lock_what_its_files_import(tmp_path: Path) -> None:
    """Not what Lambda has, nor what came for something else; each change is another hash."""
    locked = {
        "httpx": "minutehand", "httpcore": "httpx", "boto3": "minutehand", "botocore": "boto3",
        "pydantic": "minutehand", "tenacity": "pydantic", "s3transfer": "boto3",
        "jmespath": "boto3", "awslambdaric": "minutehand",
    }  # fmt: skip
    lines = (
        f"{name}==1.0 \\\n    --hash=sha256:{'a' * 64}\n    # via {via}\n"
        for name, via in locked.items()
    )
    code = (
        "import boto3, botocore, s3transfer, jmespath, awslambdaric\n"
        "import httpx\nimport not_locked\n"
    )
    tree(tmp_path, {"minutehand.toml": "", "requirements.lock": "".join(lines), "jobs.py": code})
    project, files = Project.at(tmp_path), [tmp_path / "jobs.py"]

    assert [each.name for each in locked_for(files, project)] == ["httpcore", "httpx"]
    hashes = [sources_hash(files, project), sources_hash([], project)]
    tree(tmp_path, {"jobs.py": "import tenacity"})
    assert [each.name for each in locked_for(files, project)] == ["tenacity"]
    hashes.append(sources_hash(files, project))
    (tmp_path / "requirements.lock").write_text("a==2\n")
    assert len({*hashes, sources_hash(files, project)}) == 4


def test_a_tool_that_fails_is_a_sentence_with_its_own_words() -> None:
    """Who packages does not read a trace."""
    say = "import sys; print(sys.stdin.read(), end=''); sys.exit(sys.argv[1:] == ['no'])"

    assert run_tool([sys.executable, "-c", say], "it failed", given="words") == "words"
    with pytest.raises(PackagingError, match=r"it failed: [\s\S]*… said\nwords"):
        run_tool([sys.executable, "-c", say, "no"], "it failed", given="words")
    assert Path(find_tool("python")).parent == Path(sys.executable).parent
    assert Path(find_tool("sh")).is_absolute()
    with pytest.raises(PackagingError, match=r"minutehand\[deploy\]"):
        find_tool("no-such-tool")


@pytest.mark.parametrize(("there", "more"), [((), []), (("a.pem", "b.pem"), ["--system-certs"])])
def test_uv_trusts_the_certificates_of_this_machine(
    there: tuple[str, ...], more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy may sign with its own; other programs are run as they are."""
    monkeypatch.setattr(tools, "CERTIFICATES", [tmp_path / name for name in ("none.pem", *there)])
    tree(tmp_path, dict.fromkeys(there, "") | {"uv": '#!/bin/sh\necho "$@"', "pip": ""})
    shutil.copyfile(tmp_path / "uv", tmp_path / "pip")
    for name in ("uv", "pip"):
        (tmp_path / name).chmod(0o700)

    assert tools.with_certificates(["uv", "pip"]) == ["uv", "pip", *more]
    assert run_tool([str(tmp_path / "uv"), "x"], "").split() == ["x", *more]
    assert run_tool([str(tmp_path / "pip"), "x"], "").split() == ["x"]


def test_what_the_service_includes_is_written_afresh(tmp_path: Path) -> None:
    """What an earlier release left behind would be deployed with it."""
    project = Project.at(tree(tmp_path, {"minutehand.stages.yml": "prod:\n"}))
    write_service(project, tmp_path)
    tree(tmp_path, {"build/minutehand/aws/old.yml": ""})

    write_service(project, tmp_path)

    folder = tmp_path / "build" / "minutehand"
    names = {path.name for path in (folder / "aws").iterdir()}
    assert {"console.yml", "environment.cjs", "pages.js"} <= names
    assert not names & {"old.yml", "stages.yml"}
    assert {Path(name).suffix for name in names} == {".yml", ".cjs", ".js"}
    assert json.loads((folder / "stages.json").read_text()) == read_stages(project)
    assert json.loads((folder / "apps.json").read_text()) == needs_of(project).service()
    assert (folder / ".gitignore").read_text() == "*\n"


def test_each_function_reads_its_own_secrets_alone(tmp_path: Path) -> None:
    """A leak of one function is not one of all; what is empty is not written."""
    tree(tmp_path, {"one/lambda.yml": "functions: {worker: {secrets: [KEY]}}\n"})
    needs = read_needs([Placed(tmp_path / "one")])
    values = {
        "WORKER_SECRET_TOKEN": "w", "BACKGROUND_JOB_TOKEN": "", "SUPABASE_WORKER_KEY": "k",
        "SUPABASE_JWKS": "j", "KEY": "own", "OTHER": "o",
    }  # fmt: skip
    written: dict[str, Any] = {}

    class Store:
        def put_parameter(self, **given: Any) -> None:
            written[given.pop("Name")] = given

    names = write_parameters(Store(), "dev", values, key_id="alias/k", needs=needs)

    assert names == list(written)
    assert written["/minutehand/dev/jobs"]["Description"] == "Secrets of minutehand-dev-jobs"
    assert {name: sorted(json.loads(each["Value"])) for name, each in written.items()} == {
        "/minutehand/dev/jobs": ["SUPABASE_JWKS"],
        "/minutehand/dev/status": [
            "SUPABASE_JWKS", "SUPABASE_WORKER_KEY", "WORKER_SECRET_TOKEN"
        ],
        "/minutehand/dev/worker": ["KEY", "SUPABASE_WORKER_KEY", "WORKER_SECRET_TOKEN"],
        "/minutehand/dev/health": ["SUPABASE_WORKER_KEY"],
    }  # fmt: skip
    same = {(each["Type"], each["Overwrite"], each["KeyId"]) for each in written.values()}
    assert same == {("SecureString", True, "alias/k")}
    write_parameters(Store(), "dev", values)
    assert not any("KeyId" in each for each in written.values())
    assert missing_for("worker", values) == ["BACKGROUND_JOB_TOKEN"]
    assert missing_for("jobs", {}) == []
    assert missing_for("health", {}) == [" or ".join(WORKER_SIGN_IN)]


def test_each_function_is_given_what_it_may_take() -> None:
    """Everything at once; a name that is missing here is one that AWS never sees."""
    sign_in = {"SUPABASE_WORKER_KEY", "SUPABASE_JWT_SECRET", "SUPABASE_SECRET_KEY"}
    taken = {
        "jobs": {"SUPABASE_JWT_SECRET", "SUPABASE_JWKS"},
        "status": {"WORKER_SECRET_TOKEN", "SUPABASE_JWKS", *sign_in},
        "worker": {
            "WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN", "LANGUAGE_MODEL_KEY", "SPEECH_KEY",
            *sign_in,
        },
        "health": sign_in,
    }  # fmt: skip
    every = dict.fromkeys((*set().union(*taken.values()), "OTHER"), "x")

    assert {function: set(secrets_of(function, every)) for function in taken} == taken
    for function in taken:
        for name in sign_in:
            tokens = ("WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN")
            assert missing_for(function, dict.fromkeys((*tokens, name), "x")) == []
    assert missing_for("worker", {})[:2] == ["WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"]
    assert missing_for("status", {})[:1] == ["WORKER_SECRET_TOKEN"]


def wheel(folder: Path, name: str, version: str, requires: str = "") -> str:
    """Make a wheel of one module; its hash."""
    about = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": "",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
    return hashlib.sha256(file.read_bytes()).hexdigest()


class OfOneModule(Bundle):
    """A zip of a project's `main` alone."""

    @property
    def handlers(self) -> tuple[str, ...]:
        """None of this package."""
        return ("main",)


def test_a_zip_is_built_again_when_it_is_damaged_or_made_of_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is kept: a deploy after its dry run packages nothing."""
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    digest = wheel(tmp_path, "httpx", "1.0")
    lock = f"httpx==1.0 \\\n    --hash=sha256:{digest}\n    # via minutehand\n"
    code = {"main.py": "import httpx\n", "requirements.lock": lock}
    project = Project.at(tree(tmp_path / "project", code))
    target = Target("host", f"3.{sys.version_info.minor}", None, "host")
    bundle = OfOneModule("own", (), False, zipped_budget=10**5, unzipped_budget=10**5)
    out = tmp_path / "out"
    archive = out / "own.zip"

    def built() -> Built:
        [one] = build([bundle], target, out, project=project)
        assert one.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
        return one

    first = built()
    with zipfile.ZipFile(archive) as opened:
        names = set(opened.namelist())
        assert first.unzipped_bytes == sum(info.file_size for info in opened.infolist())
    assert {name for name in names if not name.endswith(".pyc")} == {
        "main.py", "httpx.py", "httpx-1.0.dist-info/METADATA"
    }  # fmt: skip
    assert len([name for name in names if name.endswith(".pyc")]) == 2
    assert (first.distributions, first.zipped_bytes) == ({"httpx": "1.0"}, archive.stat().st_size)
    assert "httpx\t1.0" in (out / "own.licences.tsv").read_text()
    assert json.loads((out / "own.cdx.json").read_text())["components"][0]["name"] == "httpx"
    written = archive.stat().st_mtime_ns
    assert built() == first
    assert archive.stat().st_mtime_ns == written
    archive.write_bytes(archive.read_bytes()[:-1])
    assert built() == first
    for half in ("{", '{"name": "own"}'):
        (out / "own.manifest.json").write_text(half)
        assert built() == first
    monkeypatch.chdir(project.root)
    shutil.rmtree(out / "own")
    assert build([bundle], target, out) == [first]
    assert (out / "own" / "main.py").exists()
    tree(project.root, {"main.py": "import httpx  # again\n"})
    assert built().made_of != first.made_of
    for text, said in (
        ("return 1", "byte code could not be compiled"),
        (
            f"x = '{'1' * 10**5}'",
            r"bytes unzipped, its budget is 100,000; largest: __pycache__ [\d,]+, main",
        ),
    ):
        tree(project.root, {"main.py": text})
        with pytest.raises(PackagingError, match=said):
            built()
    tree(
        project.root,
        {"main.py": code["main.py"], "requirements.lock": lock.replace(digest, "0" * 64)},
    )
    with pytest.raises(PackagingError, match="wheels could not be installed"):
        built()


def test_the_wheels_and_the_byte_code_are_those_of_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built on any machine: uv and Lambda's own compiler are asked for them, never this one's."""
    said = "noise\n" + json.dumps({"python": "3.13.9", "magic": "f30d"})
    for name, words in (("uv", ""), ("node", said)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {program}.args\necho '{words}'\n")
        program.chmod(0o700)
        where = {"uv": "uv", "node": "node_binary"}[name]
        monkeypatch.setattr(f"minutehand.deploy.build.{where}", lambda program=program: program)
    monkeypatch.setattr(tools, "CERTIFICATES", [])
    lock = f"httpx==1.0 \\\n    --hash=sha256:{'a' * 64}\n    # via minutehand\n"
    code = {"main.py": "import httpx\n", "deep/__init__.py": "", "requirements.lock": lock}
    project = Project.at(tree(tmp_path / "project", code))
    bundle = OfOneModule("own", (), False, zipped_budget=10**5, unzipped_budget=10**5)
    out, target = tmp_path / "out", Target("other", "3.14", "some-platform", "pyodide")

    [built] = build([bundle], target, out, project=project)

    assert (built.python, built.magic, built.distributions) == ("3.13.9", "f30d", {})
    listing = out / "own.requirements.txt"
    assert (tmp_path / "uv.args").read_text().splitlines() == [
        "pip", "install", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:",
        "--link-mode", "copy", "--no-config", "--target", str(out / "own"),
        "--python-version", "3.14", "--python", sys.executable, "-r", str(listing),
        "--python-platform", "some-platform",
    ]  # fmt: skip
    assert listing.read_text() == lock.partition("    # via")[0]
    script, *rest = (tmp_path / "node.args").read_text().splitlines()
    assert Path(script).name == "compile.mjs"
    assert rest == ["3.14", inspect.getfile(compile_trees), str(out / "own")]


def test_what_a_freeze_does_not_say_is_added_and_its_versions_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes, and who asked for each; neither this library nor the project is looked for."""
    for version in ("1.0", "2.0"):
        wheel(tmp_path, "inner", version)
    wheel(tmp_path, "outer", "1.0", "inner")
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    freeze = (
        "# made by pip\n\ninner==1.0 \\\nouter==1.0\nminutehand==0.1.0\n"
        "-e git+x#egg=shop\nShop==1.0\nSHOP @ file:///shop\nminutehand-local @ file:///wheels/local.whl\n"
    )
    tree(tmp_path, {"requirements.txt": freeze, "pyproject.toml": '[project]\nname = "Shop"\n'})

    entries = read_project_lock(tmp_path)

    assert {name: entry.version for name, entry in entries.items()} == {
        "inner": "1.0",
        "outer": "1.0",
    }
    assert "outer" in entries["inner"].parents
    assert all(len(entry.hashes) == 1 for entry in entries.values())


UV_LOCK = """version = 1
requires-python = ">=3.11"

[[package]]
name = "shop"
version = "1.0"
source = { virtual = "." }
dependencies = [{ name = "inner" }]

[package.optional-dependencies]
more = [{ name = "extra" }]

[package.metadata]
requires-dist = [
  { name = "extra", marker = "extra == 'more'" },
  { name = "inner" },
]
provides-extras = ["more"]

[[package]]
name = "extra"
version = "3.0"
source = { registry = "https://pypi.org/simple" }
wheels = [{ url = "https://files.example/extra-3.0-py3-none-any.whl", hash = "sha256:HASH" }]

[[package]]
name = "inner"
version = "1.0"
source = { registry = "https://pypi.org/simple" }
wheels = [{ url = "https://files.example/inner-1.0-py3-none-any.whl", hash = "sha256:HASH" }]
"""


def test_a_lock_of_uv_is_read_before_a_freeze_and_after_a_compiled_one(tmp_path: Path) -> None:
    """Which may be older; versions, hashes and origins are its own."""
    about = '[project]\nname = "shop"\nversion = "1.0"\nrequires-python = ">=3.11"\n'
    project = {
        "pyproject.toml": f'{about}dependencies = ["inner"]\n'
        '[project.optional-dependencies]\nmore = ["extra"]\n',
        "uv.lock": UV_LOCK.replace("HASH", "a" * 64),
        "requirements.txt": "inner>=1",
    }

    extra, inner = read_project_lock(tree(tmp_path, project)).values()

    assert (inner.name, inner.version, inner.hashes) == ("inner", "1.0", [f"sha256:{'a' * 64}"])
    assert inner.parents == extra.parents == {"shop"}
    assert (extra.name, extra.version) == ("extra", "3.0")
    tree(tmp_path, {"pyproject.toml": f'{about}dependencies = ["inner", "not-locked-yet"]\n'})
    assert "inner" in read_project_lock(tmp_path), "no resolver picks what the lock lacks"
    tree(tmp_path, {"requirements.lock": ""})
    assert read_project_lock(tmp_path) == {}


def test_a_package_is_compiled_as_asked_and_what_fails_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage's and the region's template beside the zips, none for this machine."""
    out, asked = tmp_path / "aws", []

    def compile_template(stage: str, folder: Path, **options: Any) -> Path:
        asked.append((stage, folder, options))
        return folder

    monkeypatch.setattr(package, "build", lambda *_, **__: [])
    monkeypatch.setattr(package, "compile_template", compile_template)
    there = ["--stage", "prod", "--region", "eu-central-1", "--out", str(out)]

    assert package.main(there) == package.main([*there, "--target", "host"]) == 0

    assert asked == [("prod", out, {"artifacts": out, "region": "eu-central-1"})]
    assert (out / ".gitignore").is_file(), "zips stay out of git"
    for error in (
        PackagingError("no uv"),
        ConfigurationError("A", "b", "c"),
        NodeMissing("no Node"),
    ):

        def fail(*_: Any, error: Exception = error, **__: Any) -> None:
            raise error

        monkeypatch.setattr(package, "build", fail)
        assert package.main(there) == 1
        assert capsys.readouterr().err == f"package: {error}\n"


def test_the_template_depends_on_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on its profile of AWS nor on hidden files; osls' own words follow a refusal."""
    ran: list[dict[str, Any]] = []
    done = SimpleNamespace(returncode=0, stdout="", stderr="no such file")

    def record(command: list[str], **options: Any) -> SimpleNamespace:
        ran.append(options["env"])
        return done

    shop = {"serverless.yml": "service: shop\n", "minutehand.stages.yml": "dev: {}\n"}
    root = tree(tmp_path / "shop", {**shop, ".env": "A=b\n", "functions/a.py": ""})
    monkeypatch.setenv("AWS_PROFILE", "theirs")
    monkeypatch.setenv("SLS_ORG", "theirs")
    monkeypatch.setattr(package, "node_binary", lambda: Path("/node/bin/node"))
    monkeypatch.setattr(package, "node_home", lambda **_: Path("/node"))
    monkeypatch.setattr(package, "subprocess", SimpleNamespace(run=record))

    stack = package.compile_template("dev", tmp_path / "out", artifacts=tmp_path, root=root)

    [env] = ran
    assert stack == tmp_path / "out" / "stack"
    assert not {"AWS_PROFILE", "SLS_ORG"} & env.keys()
    assert env["MINUTEHAND_ARTIFACTS"] == str(tmp_path)
    assert env["PATH"].startswith("/node/bin:")
    service = tmp_path / "out" / "service"
    assert {path.name for path in service.iterdir()} == {*shop, "functions", "build"}
    done.returncode = 1
    with pytest.raises(PackagingError, match=r"osls refused serverless\.yml:\nno such file"):
        package.compile_template("dev", tmp_path / "out", artifacts=tmp_path, root=root)


class Asked(dict[str, str]):
    """An environment that remembers what was asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """Nothing is set."""
        self.names.add(name)
        return default


#: On AWS the vendor is Apollo itself.
LOCAL_ALONE = {"USE_MOCK_APOLLO", "APOLLO_BASE_URL"}


@pytest.mark.parametrize(
    "settings",
    [BeaconSettings, ApolloSettings, TrainingSettings],
    ids=lambda each: each.__name__,
)
def test_every_setting_of_an_app_reaches_its_functions(settings: Any) -> None:
    """A documented variable that lambda.yml forgets is silently dropped, locally and on AWS."""
    asked = Asked()
    settings.from_env(asked)
    request = yaml.safe_load(Path(inspect.getfile(settings)).with_name("lambda.yml").read_text())

    assert asked.names
    assert asked.names <= set(request["local"])
    functions = request.get("functions", {}).values()
    on_aws = {
        name
        for each in functions
        for name in (*each.get("environment", {}), *each.get("secrets", ()))
    }
    assert asked.names <= on_aws | LOCAL_ALONE
