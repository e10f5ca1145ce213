"""Values of a stage: what breaks a stack is refused before it, each level compiles and boots."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from minutehand.cli import deploy
from minutehand.deploy.bundles import BUNDLES
from minutehand.deploy.package import TEMPLATE, compile_template
from minutehand.deploy.stage_values import LEVELS, problems
from minutehand.local.lambda_functions import EMPTY_ZIP
from minutehand.terminal.connection import CommandFailed
from supabase_local.lambda_runtime import Function, FunctionConfig, Invocation
from tests.support.lambda_events import load_event
from tests.support.paths import ROOT

FILLED = {
    "supabaseUrl": "https://abcdefghijklmnopqrst.supabase.co",
    "supabasePublishableKey": "sb_publishable_x",
    "alarmEmail": "on-call@example.com",
}


def project(folder: Path, **values: Any) -> Path:
    """A project of one stage, `try`."""
    (folder / "minutehand.stages.yml").write_text(json.dumps({"default": FILLED, "try": values}))
    shutil.copyfile(ROOT / "serverless.yml", folder / "serverless.yml")
    for bundle in BUNDLES:
        (folder / f"{bundle.name}.zip").write_bytes(EMPTY_ZIP)
    return folder


@pytest.mark.parametrize(("at_once", "counted"), [("", "7"), (12, "12")])
def test_what_a_stage_says_reaches_the_stack(
    tmp_path: Path, at_once: int | str, counted: str
) -> None:
    """A setting that is lost on its way is noticed when it was needed."""
    models = {
        "languageModelUrl": "https://models.example", "languageModel": "small",
        "languageModelPrices": "0.15,0.60", "speechUrl": "https://speech.example",
        "speechModel": "fast",
    }  # fmt: skip
    values = {
        "tickState": "DISABLED", "workerTimeout": 600, "workerMemory": 3008, "workerDisk": 2048,
        "workerReservedConcurrency": 7, "statusReservedConcurrency": 9, "uploadDays": 3,
        "logRetentionDays": 14, "allowAnonymous": "true", "workersAtOnce": at_once,
        "workerConcurrency": 3, "extraWorkers": 2, "streamWaitSeconds": 15, "budgetUSD": 50,
        "workerLayers": ["arn:aws:lambda:us-east-1:123456789012:layer:speech:1"],
        "oldestDueSeconds": 60, "requestsPerSecond": 90,
        "requestBurst": 91, "enqueuesPerSecond": 80, "enqueueBurst": 81, "bulksPerSecond": 7,
        "bulkBurst": 8, "corsOrigins": ["https://a.example", "https://b.example"],
        **models,
    }  # fmt: skip
    root = project(tmp_path, **values)

    folder = compile_template("try", tmp_path / "out", artifacts=root, root=root)

    resources = json.loads((folder / TEMPLATE).read_text())["Resources"]
    found = {name: each["Properties"] for name, each in resources.items() if "Properties" in each}
    worker, status = found["WorkerLambdaFunction"], found["StatusLambdaFunction"]
    rules = found["UploadsBucket"]["LifecycleConfiguration"]["Rules"]
    assert found["Tick"]["State"] == "DISABLED"
    assert (worker["Timeout"], worker["MemorySize"]) == (600, 3008)
    assert worker["EphemeralStorage"] == {"Size": 2048}
    variables = worker["Environment"]["Variables"]
    assert variables["WORKERS_AT_ONCE"] == counted
    assert variables["ALLOW_ANONYMOUS"] == "true"
    assert (variables["WORKER_CONCURRENCY"], variables["EXTRA_WORKERS"]) == ("3", "2")
    assert variables["SUPABASE_URL"] == FILLED["supabaseUrl"]
    assert variables["SUPABASE_PUBLISHABLE_KEY"] == FILLED["supabasePublishableKey"]
    assert variables["CORS_ORIGINS"] == "https://a.example,https://b.example"
    for name, value in models.items():
        variable = re.sub("(?=[A-Z])", "_", name).upper()
        assert variables[variable] == value
    assert worker["Layers"] == values["workerLayers"]
    assert status["Environment"]["Variables"]["STREAM_WAIT_SECONDS"] == "15"
    assert worker["ReservedConcurrentExecutions"] == 7
    assert status["ReservedConcurrentExecutions"] == 9
    assert [rule["ExpirationInDays"] for rule in rules if "ExpirationInDays" in rule] == [3]
    assert found["WorkerLogGroup"]["RetentionInDays"] == 14
    assert found["AlertsByMail"]["Endpoint"] == FILLED["alarmEmail"]
    assert found["MonthlyBudget"]["Budget"]["BudgetLimit"]["Amount"] == 50
    assert found["OldestDueJobAlarm"]["Threshold"] == 60
    assert found["WorkerNearTimeoutAlarm"]["Threshold"] == 599_000
    gateway = found["HttpApiStage"]
    limits = {"all": gateway["DefaultRouteSettings"], **gateway["RouteSettings"]}
    assert {
        name: (limits[name]["ThrottlingRateLimit"], limits[name]["ThrottlingBurstLimit"])
        for name in ("all", "POST /api/jobs", "POST /api/jobs/bulk")
    } == {"all": (90, 91), "POST /api/jobs": (80, 81), "POST /api/jobs/bulk": (7, 8)}


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARN", "ERROR", "FATAL"])
async def test_each_level_compiles_and_boots(tmp_path: Path, level: str) -> None:
    """Three of the five broke: at compile, at init, or by silencing the metrics of alarms."""
    root = project(tmp_path, logLevel=level)
    folder = compile_template("try", tmp_path / "out", artifacts=root, root=root)
    resources = json.loads((folder / TEMPLATE).read_text())["Resources"]
    health = resources["HealthLambdaFunction"]["Properties"]

    filtered = {
        resource["Properties"]["LoggingConfig"]["ApplicationLogLevel"]
        for resource in resources.values()
        if resource["Type"] == "AWS::Lambda::Function"
    }
    assert filtered == {"DEBUG" if level == "DEBUG" else "INFO"}
    variables = {k: v for k, v in health["Environment"]["Variables"].items() if isinstance(v, str)}
    assert variables["LOG_LEVEL"] == LEVELS[level]
    variables.pop("SECRETS_PARAMETER")
    function = Function(
        FunctionConfig(
            name="health",
            handler="minutehand.functions.health.handler.handler",
            task_root=ROOT,
            timeout=60,
            memory_mb=256,
            variables={**variables, "SUPABASE_WORKER_KEY": "a.b.c", "MINUTEHAND_APPS": ""},
        )
    )
    try:
        outcome = await function.invoke(Invocation(json.dumps(load_event("http_health")).encode()))
    finally:
        await function.stop()

    assert outcome.ok, outcome
    assert json.loads(outcome.payload)["statusCode"] == 200


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("logLevel", "LOUD", "DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("logRetentionDays", 31, "one of 1, 3, 5"),
        ("workerTimeout", 901, "from 30 to 900"),
        ("workerMemory", 64, "from 128 to 10240"),
        ("workersAtOnce", "many", "from 1 to 10000, or ''"),
        ("tickState", "ON", "ENABLED, DISABLED"),
        ("console", "no", "true, false"),
        ("alarmEmail", "me", "a mail address"),
        ("alarmEmail", "me@example.com me@example", "a mail address"),
        ("corsOrigins", "https://a.example", "must be a list"),
        ("corsOrigins", ["https://a.example/path"], "without a path"),
        ("corsOrigins", ["*"], "without a path or *"),
        ("corsOrigins", ["https://*.example"], "without a path or *"),
    ],
)
def test_a_value_that_breaks_the_stack_is_refused_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: Any, said: str
) -> None:
    """By its name, with what it must be."""
    monkeypatch.setenv("MINUTEHAND_PROJECT", str(project(tmp_path, **{name: value})))

    with pytest.raises(CommandFailed, match=name) as caught:
        deploy.check_filled(deploy.Plan("try", "us-east-1", {}))

    assert caught.value.code == "bad_parameter"
    assert said in str(caught.value)
    assert "minutehand.stages.yml" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("workerTimeout", 30, 900),
        ("workerMemory", 128, 10_240),
        ("workerDisk", 512, 10_240),
        ("workerConcurrency", 1, 1000),
        ("extraWorkers", 1, 1000),
        ("workersAtOnce", 1, 10_000),
        ("workerReservedConcurrency", 1, 100_000),
        ("oldestDueSeconds", 1, 86_400),
        ("uploadDays", 1, 3650),
        ("budgetUSD", 1, 10_000_000),
    ],
)
def test_a_number_is_taken_between_its_ends_alone(name: str, least: int, most: int) -> None:
    """Both ends are AWS's own where it has any."""
    assert problems({name: least}) == problems({name: str(most)}) == []
    for beyond in (least - 1, most + 1, f"{least}.5", "²"):
        assert len(problems({name: beyond})) == 1, beyond
    assert bool(problems({name: None})) is not name.startswith(("workersAt", "workerReserved"))


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("logLevel", ["TRACE", "DEBUG", "INFO", "WARN", "WARNING", "ERROR", "FATAL", "critical"]),
        (
            "logRetentionDays",
            [
                1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192,
                2557, 2922, 3288, 3653,
            ],
        ),
        ("tickState", ["ENABLED", "DISABLED"]),
        ("console", ["true", "false", True, False]),
        ("allowAnonymous", ["true", "false", True, False]),
        ("alarmEmail", ["a@b.c", "on-call+aws@mail.example.com"]),
        ("corsOrigins", [[], ["http://localhost:1", "https://a.example"]]),
        ("workersAtOnce", ["", None]),
    ],
)  # fmt: skip
def test_every_value_that_aws_takes_is_taken(name: str, taken: list[Any]) -> None:
    """A stage that deploys today is not refused by the next release."""
    assert [problems({name: value}) for value in taken] == [[]] * len(taken)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("logLevel", ["", None, "QUIET"]),
        ("logRetentionDays", [0, 2, 4, 3654, "", None]),
        ("tickState", ["enabled", "", True]),
        ("console", ["yes", "", None, 1]),
        ("allowAnonymous", ["yes", "", None]),
        ("alarmEmail", ["", None, "@b.c", "a@b", "a@b.", "a b@c.d"]),
        ("corsOrigins", [None, {}, "", ["a.example"], ["ftp://a"], ["https://a b"], [7]]),
        ("workersAtOnce", ["0", "-1", "1.5"]),
    ],
)
def test_every_value_that_aws_refuses_is_named_with_what_it_must_be(
    name: str, refused: list[Any]
) -> None:
    """Once each, and no other value of the stage with it."""
    for value in refused:
        [said] = problems({name: value})
        assert said.startswith(f"{name} must be "), value
    assert problems({}) == []


def test_a_level_has_one_word_for_the_functions() -> None:
    """Python's own; a level of another tool is not lost."""
    assert LEVELS == {
        "TRACE": "DEBUG",
        "DEBUG": "DEBUG",
        "INFO": "INFO",
        "WARN": "WARNING",
        "WARNING": "WARNING",
        "ERROR": "ERROR",
        "FATAL": "CRITICAL",
        "CRITICAL": "CRITICAL",
    }


def test_the_defaults_and_booleans_of_yaml_are_fine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`console: false` means what it says."""
    monkeypatch.setenv("MINUTEHAND_PROJECT", str(project(tmp_path, console=False)))

    assert problems(deploy.parameters("try")) == []
    words = {"logLevel": "warn", "logRetentionDays": 30, "corsOrigins": ["http://localhost:5173"]}
    assert problems({**words, "allowAnonymous": True}) == []
    assert deploy.has_console("try") is False
