"""The files that tools read: Supabase's configuration, the hosted checklist, CI, dependabot."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from minutehand.cli.doctor.command import CHECKS
from minutehand.deploy.parameters import NEEDED, TAKEN, parameter_name
from tests.artefact.stack import FUNCTIONS, Stack
from tests.support.command import verbs
from tests.support.paths import ROOT
from tests.support.supabase_cli import supabase_program


@pytest.fixture(scope="module")
def supabase() -> dict[str, Any]:
    return tomllib.loads((ROOT / "supabase" / "config.toml").read_text())


def test_the_engine_is_not_exposed(supabase: dict[str, Any]) -> None:
    """`queue` has no row level security of its own: its functions are functions in `public`."""
    assert supabase["api"]["schemas"] == ["public"]


def test_every_seed_file_is_loaded(supabase: dict[str, Any]) -> None:
    """`supabase db reset` must give what the local stack gives."""
    folder = ROOT / "supabase"
    patterns = supabase["db"]["seed"]["sql_paths"]
    loaded = {path for pattern in patterns for path in folder.glob(pattern.removeprefix("./"))}

    assert loaded == {folder / "seed.sql", *(folder / "seeds").glob("*.sql")}


def test_tokens_live_an_hour_at_most(supabase: dict[str, Any]) -> None:
    """Removal from a workspace takes effect within a token's life."""
    assert supabase["auth"]["jwt_expiry"] <= 3600
    assert supabase["auth"]["enable_anonymous_sign_ins"] is False


def test_what_a_branch_takes_over_is_right_for_people(supabase: dict[str, Any]) -> None:
    """Branches take the file as it is, and a careless command copies it to production."""
    text = (ROOT / "supabase" / "config.toml").read_text()

    assert supabase["auth"]["site_url"] == "env(SITE_URL)"
    assert supabase["auth"]["email"]["enable_confirmations"] is True
    assert "127.0.0.1" not in re.sub(r"#.*", "", text)
    assert not {"storage", "edge_runtime", "analytics"} & set(supabase)  # others may use them
    assert "[remotes.production]" in text
    example = tomllib.loads(
        "\n".join(re.findall(r"^# (\[remotes.*|\w+ = .*)$", text, re.MULTILINE))
    )
    assert example["remotes"]["production"]["db"]["seed"]["enabled"] is False


def test_no_page_or_command_advises_to_overwrite_a_projects_settings() -> None:
    """It replaces what was set in the dashboard, with the confirmation of sign-ups among it."""
    tracked = subprocess.run(
        ["git", "ls-files", "*.md", "*.py", "*.toml", "*.yml", "*.sql"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    advice = "config" + " push"

    assert [name for name in tracked if advice in (ROOT / name).read_text("utf-8")] == []


def test_seeds_loosen_the_local_stack_alone(supabase: dict[str, Any]) -> None:
    """A preview branch on the internet runs the same seeds."""
    seeds = [ROOT / "supabase/seed.sql", *ROOT.glob("shared/minutehand_apps/*/seeds/*.sql")]
    loosening = [
        statement
        for path in seeds
        for statement in path.read_text("utf-8").split(";")
        if "queue.settings" in statement
    ]

    assert loosening
    assert all("seed_files where path like 'hosted/%'" in one for one in loosening)


@pytest.mark.parametrize("major", [2, 3])
def test_the_cli_reads_the_configuration(major: int, tmp_path: Path) -> None:
    """Both versions that deploy supports, without and with the address in the environment."""
    folder = tmp_path / "supabase"
    (folder / "migrations").mkdir(parents=True)
    text = (ROOT / "supabase" / "config.toml").read_text()
    (folder / "config.toml").write_text(re.sub(r"^# (\[remotes|\w+ = )", r"\1", text, flags=re.M))
    program = supabase_program(major)
    for more in ({}, {"SITE_URL": "https://jobs.example.com"}):
        done = subprocess.run(
            [program, "db", "push", "--dry-run", "--db-url", "postgresql://u:p@127.0.0.1:9/x"],
            cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **more},
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

        said = done.stdout + done.stderr
        assert "failed to connect to postgres" in said, said  # past its configuration
        assert "deprecated" not in said.replace("--db-url is deprecated", "")


def test_the_hosted_checklist_says_where_and_what() -> None:
    """A setting without its place is a riddle, and a check that does not exist finds nothing."""
    checks = {check.name for check in CHECKS} | {"manual"}
    settings = yaml.safe_load((ROOT / "infra/aws/hosted.yml").read_text())["settings"]

    assert len(settings) >= 10
    for setting in settings:
        assert set(setting) == {"name", "where", "value", "check"}, setting
        assert all(isinstance(value, str) and value for value in setting.values()), setting
        assert setting["check"] in checks, setting


@pytest.fixture(scope="module")
def workflows() -> dict[str, Any]:
    folder = ROOT / ".github" / "workflows"
    return {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("*.yml")}


def own_jobs(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """The jobs with steps; one without calls another workflow of this repository."""
    called = [job["uses"] for job in workflow["jobs"].values() if "uses" in job]
    assert all((ROOT / use.removeprefix("./")).is_file() for use in called), called
    return [job for job in workflow["jobs"].values() if "uses" not in job]


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Every step of a workflow."""
    return [step for job in own_jobs(workflow) for step in job["steps"]]


def test_actions_are_pinned_to_commits(workflows: dict[str, Any]) -> None:
    """A tag can be moved to other code; a commit cannot."""
    uses = [
        step["uses"]
        for workflow in workflows.values()
        for step in steps_of(workflow)
        if "uses" in step
    ]

    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", use)] == []


def test_ci_only_calls_what_a_developer_can_call(workflows: dict[str, Any]) -> None:
    """A check that runs in CI alone is found out too late."""
    targets = set(re.findall(r"^([a-z-]+):", Path(ROOT / "Makefile").read_text(), re.MULTILINE))
    for workflow in workflows.values():
        assert workflow["permissions"] == {"contents": "read"}
        assert all(job["timeout-minutes"] <= 90 for job in own_jobs(workflow))
        for step in steps_of(workflow):
            # what only GitHub can do, or needs for it
            if step.get("name") in {"Publish", "Propose", "Gather, with hashes"}:
                continue
            command = step.get("run", ".ci/run").split()
            ours = command[0].startswith(".ci/") and (ROOT / command[0]).is_file()
            assert ours or (command[0] == "make" and command[1] in targets)


def test_parameters_are_those_the_template_names(stacks: dict[str, Stack]) -> None:
    """`minutehand deploy` writes what the functions read."""
    assert set(NEEDED) == set(TAKEN) == set(FUNCTIONS)
    for name in FUNCTIONS:
        variables = stacks["prod"].function(name)["Environment"]["Variables"]
        assert variables["SECRETS_PARAMETER"] == parameter_name("prod", name)
        assert not set(variables) & {*NEEDED[name], *TAKEN[name]}


def test_only_placeholders_are_left_to_fill() -> None:
    """From README to a packaged stack: everything a person must write stands in one file."""
    text = (ROOT / "infra/aws/stages.yml").read_text()
    others = [
        path
        for path in [ROOT / "serverless.yml", *(ROOT / "infra/aws").glob("*.yml")]
        if path.name not in {"stages.yml", "parameters.yml", "schedule.yml"}
        and re.search(r"<[a-z-]+>", re.sub(r"#.*", "", path.read_text()))
    ]

    assert re.findall(r"<[a-z-]+>", text)
    assert others == []


def test_what_writes_to_the_repository_holds_the_right_alone_and_says_why() -> None:
    """A token that may write is what an attacker of CI wants."""
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for line in path.read_text("utf-8").splitlines():
            if ": write" in line:
                assert re.search(r": write # \w", line), (path.name, line)


def test_workflows_do_not_run_words_of_strangers(workflows: dict[str, Any]) -> None:
    """An expression is replaced before the shell reads the script: a title becomes a command."""
    for workflow in workflows.values():
        for step in steps_of(workflow):
            assert "${{" not in step.get("run", "")
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_every_world_of_dependencies_is_watched(workflows: dict[str, Any]) -> None:
    """Npm, actions and images by Dependabot; Python's locks by a target of their own."""
    dependabot = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())
    makefile = (ROOT / "Makefile").read_text("utf-8")
    steps = workflows["dependencies.yml"]["jobs"]["resolve"]["steps"]

    assert {update["package-ecosystem"] for update in dependabot["updates"]} == {
        "npm",
        "github-actions",
        "docker-compose",
    }
    assert "make lock UPGRADE=1" in [step.get("run") for step in steps]
    for name in ("requirements.lock", "requirements-dev.lock"):
        header = (ROOT / name).read_text("utf-8").splitlines()[1].lstrip("# ")
        options = set(header.removeprefix("uv pip compile ").split())
        [line] = [line for line in makefile.splitlines() if line.endswith(f"-o {name}")]
        compiled = makefile[makefile.index("LOCK :=") :].splitlines()[0]
        assert options <= {*line.split(), *compiled.split()}, name


def told_commands(stacks: dict[str, Stack]) -> Iterator[tuple[str, str]]:
    """Every command line of ours that an alarm, a page or another command tells people to type."""
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for path in [
            ROOT / "README.md",
            *(ROOT / "infra").glob("*/README.md"),
            *(ROOT / "shared" / "minutehand").glob("*/README.md"),
            *(ROOT / "shared" / "minutehand" / "cli").rglob("*.py"),
        ]
    }
    for name, alarm in stacks["prod"].of_type("AWS::CloudWatch::Alarm").items():
        sources[name] = alarm["AlarmDescription"]
    for where, text in sources.items():
        # a sentence may break inside of the backticks
        for line in re.findall(r"`[^`\n]*?minutehand (?:[^`]|\n)*?`", text):
            yield where, " ".join(line.strip("`").split())
        for line in re.findall(r"^\s+.*?(minutehand \w.*)$", text, re.MULTILINE):
            if "#" in text[text.index(line) - 4 : text.index(line)]:
                yield where, line


def test_every_command_in_the_texts_exists(stacks: dict[str, Stack]) -> None:
    """At three in the morning a verb that was renamed is one too many."""
    group = verbs()
    unknown = []
    seen = set()
    for where, line in told_commands(stacks):
        words = line.split("minutehand ", 1)[1].split()
        verb = words[0].strip("…,.;:")
        if not re.fullmatch(r"[a-z]+", verb):
            continue
        seen.add(verb)
        command = group.get(verb)
        options = {
            option
            for each in [command, *getattr(command, "commands", {}).values()]
            for parameter in getattr(each, "params", ())
            for option in [*parameter.opts, *parameter.secondary_opts]
        }
        wanted = {word.strip("`,.;:)…") for word in words if word.startswith("--")}
        if command is None or not wanted <= options | {"--help"}:
            unknown.append((where, line, sorted(wanted - options)))

    assert {"stats", "explain", "retry", "deploy", "doctor", "token", "dev"} <= seen
    assert unknown == []


def test_a_projects_file_of_stages_is_this_checkouts() -> None:
    """A default that a new account refuses must not live on in the copy that install writes."""
    own = yaml.safe_load((ROOT / "infra/aws/stages.yml").read_text())
    installed = ROOT / "shared/minutehand/install/templates/minutehand.stages.yml"

    assert yaml.safe_load(installed.read_text()) == own
