"""What the packager reads of a project: its lock, its apps' requests, its stages."""

from __future__ import annotations

import inspect
import marshal
import py_compile
import re
from importlib.util import cache_from_source
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
import yaml

from minutehand.app import App
from minutehand.config import ConfigurationError
from minutehand.deploy.apps import read_needs
from minutehand.deploy.bundles import PackagingError
from minutehand.deploy.bytecode import compile_trees
from minutehand.deploy.imports import Sources, third_party
from minutehand.deploy.lockfile import Locked, parse_lock, read_project_lock, select
from minutehand.deploy.service import read_stages
from minutehand.project import Project
from minutehand_apps.beacon.settings import BeaconSettings
from minutehand_apps.enrichment.settings import ApolloSettings
from minutehand_apps.training.settings import TrainingSettings

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
-e .
anyio==4.16.0 \\
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


def test_a_local_wheel_in_a_lock_is_left_out_with_its_hashes() -> None:
    """Its lines must not be taken for those of the distribution before it."""
    entries = parse_lock(LOCK)

    assert list(entries) == ["httpx", "anyio"]
    assert entries["httpx"].hashes == [f"sha256:{'a' * 64}"]
    assert entries["anyio"].parents == {"httpx", "starlette"}


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
        }.items()
    }

    chosen = select(entries, ["httpx"], skip=["boto3"])

    assert [each.name for each in chosen] == ["h11", "httpcore", "httpx"]
    with pytest.raises(LookupError, match=r"not in requirements\.lock: idna"):
        select(entries, ["idna"], skip=[])


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
        "else:\n    import httpx\n"
    )

    assert set(third_party([file], Sources((tmp_path,), frozenset({"jobs"})))) == {"httpx"}


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
        (tmp_path / tree / "part" / "same.py").write_text("def f() -> None:\n    pass\n")
        (tmp_path / tree / "differs.py").write_text(text)

    compile_trees([tmp_path / "one", tmp_path / "other"])

    def code(tree: str, name: str) -> CodeType:
        content = Path(cache_from_source(str(tmp_path / tree / name))).read_bytes()
        loaded = marshal.loads(content[16:])
        assert isinstance(loaded, CodeType)
        return loaded

    for tree, value in (("one", 1), ("other", 2)):
        assert code(tree, "part/same.py").co_filename == "/var/task/part/same.py"
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
    (other / "lambda.yml").write_text("functions: {worker: {secrets: [KEY, OTHER]}}\n")

    needs = read_needs([Placed(one), Placed(other)])

    assert needs.secrets("worker") == ("KEY", "OTHER")
    assert needs.secrets("jobs") == ()
    assert needs.variables({"KEY": "mine", "MORE": "no"}) == {"MOCK": "true", "KEY": "mine"}
    service = needs.service()
    assert service["functions"] == {"worker": {"environment": {"SIZE": "${param:size}"}}}
    assert list(service["resources"]["Resources"]) == ["WorkerPolicyOfApps"]
    (other / "lambda.yml").write_text("parameters: {size: 2}\n")
    with pytest.raises(ConfigurationError, match="gives size the value 2; another app gives 1"):
        read_needs([Placed(one), Placed(other)])
    (other / "lambda.yml").write_text("functions: {wroker: {}}\n")
    with pytest.raises(ConfigurationError, match="is not valid"):
        read_needs([Placed(other)])


def test_a_stage_starts_from_the_package_and_the_project_overrides(tmp_path: Path) -> None:
    """A project's file stays short, and a new parameter of a release has its default."""
    (tmp_path / "minutehand.stages.yml").write_text(
        "default: {alarmEmail: a@b.example}\nprod: {budgetUSD: 7}\ndev:\n"
    )

    stages = read_stages(Project.at(tmp_path))

    assert stages["default"]["alarmEmail"] == "a@b.example"
    assert stages["default"]["workerTimeout"] == 300
    assert (stages["prod"], stages["dev"]) == ({"budgetUSD": 7}, {})
    (tmp_path / "minutehand.stages.yml").write_text("prod: 3\n")
    with pytest.raises(ConfigurationError, match="must map stages"):
        read_stages(Project.at(tmp_path))


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
