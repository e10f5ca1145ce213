"""Deploying against moto's AWS: what is checked before, what is written, what doctor then sees."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from moto import mock_aws
from moto.sns.models import sns_backends

from minutehand.cli import account, deploy
from minutehand.cli.doctor import cloud, settings
from minutehand.cli.doctor.command import deployed_target
from minutehand.cli.doctor.command import run as run_check
from minutehand.cli.doctor.findings import Check, Finding, Target, Verdict
from minutehand.deploy import console
from minutehand.deploy.bundles import PackagingError
from minutehand.deploy.parameters import parameter_name, write_parameters
from minutehand.node import NodeMissing
from minutehand.project import Project
from minutehand.terminal.connection import CommandFailed
from minutehand.terminal.output import Output
from minutehand.version import VERSION
from tests.support.command import Run

SECRETS = {
    "WORKER_SECRET_TOKEN": "w" * 32,
    "BACKGROUND_JOB_TOKEN": "b" * 32,
    "SUPABASE_WORKER_KEY": "a.b.c",
}
PLAN = deploy.Plan("dev", "us-east-1", SECRETS)
FUNCTIONS = ("jobs", "status", "worker", "health")


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that knows no account; boto3's session remembers those of tests before."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


run = Run()


def client(service: str) -> Any:
    return boto3.client(service, region_name="us-east-1")  # type: ignore[call-overload]


def make_stack(resource: str, properties: dict[str, Any], **outputs: Any) -> None:
    """The stage's stack with one resource and some outputs."""
    stack = {
        "Resources": {"R": {"Type": resource, "Properties": properties}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    client("cloudformation").create_stack(
        StackName="minutehand-dev", TemplateBody=json.dumps(stack)
    )


def test_placeholders_are_named_before_anything_is_built() -> None:
    """The stages file comes with placeholders, and they must not reach AWS."""
    told = run.refused("deploy", "dev", "--dry-run")

    assert told["code"] == "placeholders"
    assert "supabaseUrl" in told["error"]
    assert "infra/aws/stages.yml" in told["fix"]


def test_a_filled_stage_has_none(tmp_path: Path) -> None:
    """A stage's own value fills the default's placeholder."""
    (tmp_path / "minutehand.stages.yml").write_text(
        "default: {alarmEmail: a@example.com, supabasePublishableKey: sb_publishable_x}\n"
        "prod: {}\ndev: {supabaseUrl: https://x}\n"
    )
    project = Project.at(tmp_path)

    assert deploy.placeholders("prod", project) == ["supabaseUrl"]
    assert deploy.placeholders("dev", project) == []


def test_missing_secrets_are_all_named_at_once() -> None:
    """One run, one list."""
    with pytest.raises(
        CommandFailed, match=r"BACKGROUND_JOB_TOKEN.*SUPABASE_WORKER_KEY.*WORKER_SECRET"
    ) as caught:
        deploy.check_secrets(deploy.Plan("dev", "us-east-1", {}))

    assert "minutehand token" in str(caught.value.fix)


def test_a_secrets_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """It holds the keys to everybody's jobs; in git it would give them away for good."""
    file = tmp_path / "secrets.env"
    with pytest.raises(CommandFailed, match="does not exist"):
        deploy.read_secrets(file)
    file.write_text("WORKER_SECRET_TOKEN=x\n")
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(CommandFailed, match="others may read"):
            deploy.read_secrets(file)
    file.chmod(0o600)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert deploy.read_secrets(file) == {"WORKER_SECRET_TOKEN": "x"}
    subprocess.run(["git", "add", "secrets.env"], cwd=tmp_path, check=True)

    with pytest.raises(CommandFailed, match="git has") as refused:
        deploy.read_secrets(file)

    assert "git rm --cached" in str(refused.value.fix)


def test_each_function_gets_its_own_secrets_and_no_others(aws: None) -> None:
    """Under the stack's key; a second run rotates them."""
    make_stack("AWS::KMS::Key", {"KeyPolicy": {}}, ServiceKeyArn={"Fn::GetAtt": ["R", "Arn"]})

    deploy.put_secrets(PLAN)
    deploy.put_secrets(replace(PLAN, secrets={**SECRETS, "BACKGROUND_JOB_TOKEN": "n" * 40}))

    ssm = client("ssm")
    read = {}
    for function in FUNCTIONS:
        name = parameter_name("dev", function)
        found = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        assert found["Type"] == "SecureString"
        read[function] = json.loads(found["Value"])
    # by it the chat and the plans sign the address of a guest whose request they pass on
    assert read["jobs"] == read["health"] == {"SUPABASE_WORKER_KEY": "a.b.c"}
    assert read["worker"]["BACKGROUND_JOB_TOKEN"] == "n" * 40
    assert "BACKGROUND_JOB_TOKEN" not in read["status"]
    described = ssm.describe_parameters()["Parameters"]
    assert all(":key/" in parameter["KeyId"] for parameter in described)


def finding(check: Check, stage: str = "dev") -> Finding:
    target = Target({"STAGE": stage}, stage)
    return run_check(check, target)


CHECKS = {check.name: check for check in cloud.CHECKS}


def test_doctor_misses_what_was_never_deployed(aws: None) -> None:
    """An empty account, told check by check."""
    told = {name: finding(check) for name, check in CHECKS.items()}

    good = {name for name, f in told.items() if f.verdict is Verdict.OK}
    assert good == {"aws-account", "stage-settings"}
    for name in good:
        told.pop(name)
    assert "does not exist" in told["parameters"].detail
    assert "does not exist" in told["aws-schedule"].detail
    assert "minutehand-dev-jobs does not exist" in told["aws-functions"].detail
    assert all(f.fix and "\n" not in f.fix for f in told.values())


def test_doctor_sees_incomplete_and_plain_parameters(aws: None) -> None:
    """A plain String is readable by everybody with the console."""
    ssm = client("ssm")
    for function in FUNCTIONS:
        ssm.put_parameter(Name=parameter_name("dev", function), Value="{}", Type="SecureString")
    assert "lacks WORKER_SECRET_TOKEN" in finding(CHECKS["parameters"]).detail

    ssm.put_parameter(Name=parameter_name("dev", "jobs"), Value="{}", Type="String", Overwrite=True)
    assert "plain String" in finding(CHECKS["parameters"]).detail

    write_parameters(ssm, "dev", SECRETS)
    assert finding(CHECKS["parameters"]).verdict is Verdict.OK


def make_functions(**changes: Any) -> None:
    role = client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    for function in FUNCTIONS:
        client("lambda").create_function(
            FunctionName=f"minutehand-dev-{function}",
            Role=role,
            Handler="x.y",
            Code={"ZipFile": b"PK\x05\x06" + bytes(18)},
            **{"Runtime": "python3.13", "Environment": {"Variables": {"STAGE": "dev"}}, **changes},
        )


A_JWT = f"eyJ{'a' * 20}.eyJ{'b' * 20}.c"
PASTED = {
    "ANYTHING": ("sb_secret_0123456789", A_JWT, "-----BEGIN EC PRIVATE KEY-----"),
    # by its name, whatever it holds: ours, and those that an app asks for
    **dict.fromkeys(
        (
            "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET", "SUPABASE_WORKER_KEY", "SPEECH_KEY",
            "WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN", "LANGUAGE_MODEL_KEY",
            "BEACON_PROVIDERS",
        ),
        ("x",),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "detail", "fix"),
    [
        # somebody pasted it into the console in a hurry
        *(
            ({"Environment": {"Variables": {name: value}}}, f"shows {name}", "rotate")
            for name, pasted in PASTED.items()
            for value in pasted
        ),
        # its byte code would be compiled anew at every cold start
        ({"Runtime": "python3.12"}, "runs python3.12", "minutehand deploy dev"),
    ],
)
def test_doctor_sees_what_is_wrong_with_a_function(
    aws: None, changes: dict[str, Any], detail: str, fix: str
) -> None:
    """A secret in plain sight, another Python."""
    make_functions(**changes)

    told = finding(CHECKS["aws-functions"])

    assert told.verdict is Verdict.FAIL
    assert detail in told.detail
    assert fix in str(told.fix)


def test_doctor_looks_at_what_the_stage_runs_with(
    aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody should copy secrets out of AWS to have them checked."""
    monkeypatch.setenv("SUPABASE_URL", "http://the-shells-leftover")
    make_functions(Environment={"Variables": {"KMS_KEY_ID": "arn:k", "CORS_ORIGINS": "https://a"}})
    make_stack("AWS::S3::Bucket", {}, ConsoleUrl="https://d1.cloudfront.net")
    write_parameters(client("ssm"), "dev", SECRETS)
    file = tmp_path / "prod.env"
    file.write_text("SUPABASE_URL=https://named.supabase.co\nAPI_URL=   # not yet\n")

    alone = deployed_target("dev", "us-east-1", None)
    named = deployed_target("dev", "us-east-1", file)

    assert alone.aws_away is None
    assert alone.values["WORKER_SECRET_TOKEN"] == SECRETS["WORKER_SECRET_TOKEN"]
    assert alone.values["KMS_KEY_ID"] == "arn:k"
    assert alone.values["API_URL"] == named.values["API_URL"] == "https://d1.cloudfront.net"
    assert "SUPABASE_URL" not in alone.values  # stages.yml has its placeholder, the shell no say
    assert named.values["SUPABASE_URL"] == "https://named.supabase.co"
    verdicts = {check.name: run_check(check, named).verdict for check in settings.CHECKS}
    assert verdicts["tokens"] is verdicts["sealing"] is verdicts["cors"] is Verdict.OK


@pytest.mark.usefixtures("no_credentials")
def test_without_credentials_doctor_says_so_once() -> None:
    """Five times the same failure hides the sixth."""
    target = deployed_target("dev", "us-east-1", None)
    told = {check.name: run_check(check, target) for check in cloud.CHECKS}

    assert told["aws-account"].verdict is Verdict.FAIL
    assert "aws sts get-caller-identity" in str(told["aws-account"].fix)
    failed = {name for name, finding in told.items() if finding.verdict is Verdict.FAIL}
    # whether Supabase's command line is installed has nothing to do with credentials
    assert failed - {"supabase-cli"} == {"aws-account", "placeholders"}


@pytest.mark.parametrize(
    ("state", "kept", "verdict"),
    [
        ("ENABLED", True, Verdict.OK),
        ("ENABLED", False, Verdict.WARN),
        ("DISABLED", True, Verdict.FAIL),
    ],
)
def test_doctor_sees_a_schedule_that_is_disabled_or_loses_its_failures(
    aws: None, state: str, kept: bool, verdict: Verdict
) -> None:
    """The one switch that stops everything silently; and ticks that no one would miss."""
    scheduler, queue = client("scheduler"), "arn:aws:sqs:us-east-1:123456789012:q"
    scheduler.create_schedule_group(Name="minutehand-dev")
    scheduler.create_schedule(
        Name="minutehand-dev-tick",
        GroupName="minutehand-dev",
        ScheduleExpression="rate(1 minute)",
        FlexibleTimeWindow={"Mode": "OFF"},
        State=state,
        Target={
            "Arn": "arn:aws:lambda:us-east-1:123456789012:function:minutehand-dev-worker",
            "RoleArn": "arn:aws:iam::123456789012:role/r",
            **({"DeadLetterConfig": {"Arn": queue}} if kept else {}),
        },
    )

    assert finding(CHECKS["aws-schedule"]).verdict is verdict


def test_doctor_sees_waiting_failures(aws: None) -> None:
    """The schedule's are a question for a person; a busy worker's are a record."""
    sqs = client("sqs")
    urls = [
        sqs.create_queue(QueueName=f"minutehand-dev-{kind}-failures")["QueueUrl"]
        for kind in ("worker", "tick")
    ]
    assert finding(CHECKS["failure-queues"]).verdict is Verdict.OK
    sqs.send_message(QueueUrl=urls[0], MessageBody="{}")
    busy = finding(CHECKS["failure-queues"])
    sqs.send_message(QueueUrl=urls[1], MessageBody="{}")

    told = finding(CHECKS["failure-queues"])

    assert busy.verdict is Verdict.OK
    assert "1 invocations failed for good in 3 days" in busy.detail
    assert told.verdict is Verdict.WARN
    assert "tick-failures holds 1" in told.detail


def test_doctor_sees_that_alarms_reach_no_one(aws: None) -> None:
    """AWS asks by mail once, and a mail nobody confirmed makes every alarm silent."""
    sns = client("sns")
    topic = sns.create_topic(Name="minutehand-dev-alerts")["TopicArn"]
    assert "no one is subscribed" in finding(CHECKS["alerts"]).detail
    sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="on-call@example.com")
    assert finding(CHECKS["alerts"]).verdict is Verdict.OK

    # moto confirms at once; AWS shows this instead of an ARN until somebody did
    [subscription] = sns_backends["123456789012"]["us-east-1"].subscriptions.values()
    subscription.arn = "PendingConfirmation"
    told = finding(CHECKS["alerts"])

    assert told.verdict is Verdict.FAIL
    assert "on-call@example.com" in told.detail
    assert "confirm" in str(told.fix)
    sns.subscribe(TopicArn=topic, Protocol="email", Endpoint="second@example.com")
    one_of_two = finding(CHECKS["alerts"])
    assert (one_of_two.verdict, one_of_two.detail) == (Verdict.OK, "1 confirmed")


def test_the_console_is_uploaded_with_its_configuration(aws: None) -> None:
    """Right types, kept by edges and never by browsers; the page itself comes last."""
    make_stack("AWS::S3::Bucket", {}, ConsoleBucketName={"Ref": "R"})

    deploy.upload_console(PLAN)

    s3 = client("s3")
    bucket = deploy.outputs(PLAN)["ConsoleBucketName"]
    config = s3.get_object(Bucket=bucket, Key="config.json")
    page = s3.get_object(Bucket=bucket, Key="index.html")
    module = s3.head_object(Bucket=bucket, Key="app.js")
    assert json.load(io.BytesIO(config["Body"].read())) == {
        "supabaseUrl": "https://<project-ref>.supabase.co",
        "supabaseKey": "sb_publishable_<key>",
        "schema": "public",
        "apiUrl": "",
        "stage": "dev",
    }
    assert config["ContentType"] == "application/json"
    assert config["CacheControl"] == page["CacheControl"] == "no-store"
    assert page["ContentType"] == "text/html; charset=utf-8"
    assert module["ContentType"] == "text/javascript; charset=utf-8"
    assert "max-age=0, must-revalidate" in module["CacheControl"]
    html = page["Body"].read().decode()
    wanted = re.findall(r"/(vendor/[^\"' ]+\.js)", html)
    assert wanted
    for key in wanted:
        s3.head_object(Bucket=bucket, Key=key)


class Recording:
    """Stands where a boto3 client would; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def put_object(self, **arguments: Any) -> None:
        self.asked.append(arguments)

    create_invalidation = put_object


def titles(**options: bool) -> list[str]:
    usual = {"dry_run": False, "secrets_only": False, **options}
    return [title for title, _ in deploy.planned(PLAN, Output(), **usual)]


CHECK, ACCOUNT = "check that every placeholder is filled in", "check the AWS account"
PROJECT = "check the Supabase CLI and the project"
BUILD, SECRET = "build the zips and compile the stack", "write the functions' secrets to SSM"


def test_code_never_runs_ahead_of_its_database_or_its_secrets() -> None:
    """What can refuse comes before what changes; the first tick needs all that is before it."""
    assert titles() == [
        CHECK,
        PROJECT,
        ACCOUNT,
        "check what the account allows",
        "compare the migrations with the Supabase project",
        BUILD,
        "push the migrations to Supabase",
        "create or update the stack",
        SECRET,
        "upload the console",
        "run the first tick, which publishes the job types",
    ]
    assert titles(database=False) == [each for each in titles() if "Supabase" not in each]
    assert titles(secrets_only=True) == ["check the secrets", ACCOUNT, SECRET]


def test_a_dry_run_checks_what_needs_no_account() -> None:
    """The project that would get the schema too, unless something else applies it."""
    assert titles(dry_run=True) == [CHECK, PROJECT, BUILD]
    assert titles(dry_run=True, database=False) == [CHECK, BUILD]


def test_migrations_are_only_compared_before_the_zips_are_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pushed earlier, they would be ahead of code that may never come."""
    ref, pushed = "abcdefghijklmnopqrst", []

    def push(to: str, project: Project, *, dry_run: bool = False) -> None:
        pushed.append((to, dry_run))

    cli = SimpleNamespace(version=(2, 0, 0), push=push)
    monkeypatch.setattr(deploy, "SupabaseCli", SimpleNamespace(find=lambda: cli))
    values = {"supabaseUrl": "https://api.example.com", "supabaseProject": ref}
    monkeypatch.setattr(deploy, "parameters", lambda _: values)
    steps = dict(deploy.planned(PLAN, Output(), dry_run=False, secrets_only=False))

    steps["compare the migrations with the Supabase project"]()
    steps["push the migrations to Supabase"]()

    assert pushed == [(ref, True), (ref, False)]
    with pytest.raises(CommandFailed, match=f"the stage is project {ref}") as elsewhere:
        steps[PROJECT]()
    assert elsewhere.value.code == "linked_elsewhere"


def test_the_steps_are_those_asked_for_and_the_address_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The console's, or where there is none the API's; of a stack that was left alone, nothing."""
    asked: list[dict[str, Any]] = []

    def planned(plan: deploy.Plan, output: Output, **options: bool) -> list[Any]:
        asked.append(options)
        return [("a step", lambda: None)]

    made = {"HttpApiUrl": "https://api.example"}
    monkeypatch.setattr(deploy, "planned", planned)
    monkeypatch.setattr(deploy, "outputs", lambda _: made)

    assert "deployed: https://api.example" in run("deploy", "dev").stdout
    made["ConsoleUrl"] = "https://console.example"
    assert "deployed: https://console.example" in run("deploy", "dev").stdout
    for more in (("--dry-run", "--no-database"), ("--secrets-only",)):
        said = run.json("deploy", "dev", *more)
        assert (said["steps"], said["outputs"]) == (["a step"], {})
    usual = {"dry_run": False, "secrets_only": False, "database": True}
    compared = {"dry_run": True, "secrets_only": False, "database": False}
    assert asked == [usual, usual, compared, {**usual, "secrets_only": True}]


def test_a_package_is_built_as_asked_and_its_words_are_no_part_of_the_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A deploy packages for its own stage and region."""
    asked: list[list[str]] = []
    failed = 0

    def make(arguments: list[str]) -> int:
        print("building")
        asked.append(arguments)
        return failed

    monkeypatch.setattr(deploy, "make_package", make)
    for name in ("app", "health"):
        (tmp_path / f"{name}.manifest.json").write_text(json.dumps({"name": name}))
    there = ["--stage", "prod", "--region", "eu-central-1"]

    said = run.json("package", *there, "--out", str(tmp_path), "--no-template")
    deploy.build_package(replace(PLAN, stage="prod", region="eu-central-1"))

    assert said == {"app": {"name": "app"}, "health": {"name": "health"}}
    of_command = ["--target", "lambda", "--out", str(tmp_path), "--no-template"]
    assert asked == [[*there, *of_command], there]
    failed = 1
    assert run.refused("package")["code"] == "packaging_failed"
    with pytest.raises(CommandFailed, match="could not be built"):
        deploy.build_package(PLAN)


def test_no_page_is_sent_to_a_module_that_is_not_built_yet() -> None:
    """A new page over old modules would be broken until the upload has ended."""
    s3 = Recording()

    console.upload(s3, "bucket", console.console_assets({}, []))

    keys = [call["Key"] for call in s3.asked]
    assert set(keys[-2:]) == {"config.json", "index.html"}
    assert len(set(keys)) == len(keys) > 50


def test_a_stage_without_the_console_uploads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that should have it, and whose stack has no bucket, is a failed deploy."""
    values = deploy.parameters("dev")
    monkeypatch.setattr(deploy, "parameters", lambda _: values)
    monkeypatch.setattr(deploy, "outputs", lambda _: {})
    for off in ("false", False):
        values["console"] = off
        deploy.upload_console(PLAN)

    values["console"] = "true"
    with pytest.raises(CommandFailed, match="no ConsoleBucketName"):
        deploy.upload_console(PLAN)


def test_a_vendored_file_that_is_not_the_reviewed_one_is_not_uploaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It would run with each visitor's session."""
    monkeypatch.setattr(console, "node_home", lambda: tmp_path)

    with pytest.raises(PackagingError, match=r"not what infra/console/vendor\.json says"):
        console.console_assets({}, [])
    monkeypatch.setattr(deploy, "outputs", lambda _: {"ConsoleBucketName": "b"})
    with pytest.raises(CommandFailed, match="run `make setup`") as failed:
        deploy.upload_console(PLAN)
    assert failed.value.code == "wrong_console"


def test_a_first_tick_that_fails_fails_the_deploy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No type is published then, and each enqueue is refused."""
    answer: dict[str, Any] = {}
    asked: list[dict[str, Any]] = []

    def invoke(**arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return answer

    monkeypatch.setattr(deploy.Plan, "client", lambda *_: SimpleNamespace(invoke=invoke))
    deploy.first_tick(PLAN)
    answer |= {"FunctionError": "Unhandled", "Payload": io.BytesIO(b"no SUPABASE_URL")}

    with pytest.raises(CommandFailed, match="no SUPABASE_URL") as failed:
        deploy.first_tick(PLAN)

    assert failed.value.code == "first_tick_failed"
    tick = {"FunctionName": "minutehand-dev-worker", "Payload": b'{"source": "minutehand.deploy"}'}
    assert asked == [tick, tick]


def test_a_whole_tick_is_waited_for_and_never_asked_for_twice() -> None:
    """A second invoke would run beside the first; other services keep boto3's own patience."""
    slow, usual = (PLAN.client(name).meta.config for name in ("lambda", "ssm"))

    assert slow.read_timeout > 900  # what a worker may take
    assert slow.retries["total_max_attempts"] == 1
    assert usual.read_timeout == 60


def test_osls_is_given_this_package_and_its_failure_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the caller's credentials; a refusal of CloudFormation is said with what to do."""
    ran: list[Any] = []
    done = SimpleNamespace(returncode=0)

    def record(command: list[str], **options: Any) -> SimpleNamespace:
        ran.append((command[2:], options["env"], options["cwd"], options["stdout"]))
        return done

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    monkeypatch.setattr(deploy, "write_service", lambda *_: None)
    monkeypatch.setattr(deploy, "code_environment", lambda _: {"MINUTEHAND_COMMIT": "c0ffee"})
    signed_in: list[deploy.Plan] = []
    monkeypatch.setattr(deploy, "sign_in", lambda plan, _: signed_in.append(plan))
    monkeypatch.setattr(deploy, "subprocess", SimpleNamespace(run=record))

    said = run.json("deploy", "dev", "--region", "eu-central-1", "--rollback", "1700000000000")

    [(command, env, folder, printed)] = ran
    back = ["rollback", "--timestamp", "1700000000000"]
    assert command == [*back, "--stage", "dev", "--region", "eu-central-1"]
    assert (env["AWS_ACCESS_KEY_ID"], env["MINUTEHAND_VERSION"]) == ("theirs", VERSION)
    assert (env["MINUTEHAND_SCHEMA"], folder) == ("public", Project.find().root)
    assert (env["MINUTEHAND_COMMIT"], env["SLS_INTERACTIVE_SETUP_ENABLE"]) == ("c0ffee", "0")
    assert printed is not None, "its words are not part of what --json prints"
    assert said == {"stage": "dev", "rolled_back_to": "1700000000000"}
    assert [(plan.stage, plan.region) for plan in signed_in] == [("dev", "eu-central-1")]
    done.returncode = 1
    monkeypatch.setattr(deploy.Plan, "client", lambda _, name: name)
    for explained, error, fix in (
        (("Jobs: no", "import it"), "osls deploy failed; Jobs: no", "import it"),
        (None, "osls deploy failed; see its output above", "CloudFormation's own reason"),
    ):
        monkeypatch.setattr(deploy, "explain_failure", lambda *_, found=explained: found)
        with pytest.raises(CommandFailed, match=error) as failed:
            deploy.osls(PLAN, "deploy")
        assert failed.value.code == "osls_failed"
        assert str(failed.value.fix).startswith(fix)

    def no_node() -> Path:
        raise NodeMissing("install Node")

    monkeypatch.setattr(deploy, "node_binary", no_node)
    with pytest.raises(CommandFailed, match="install Node") as missing:
        deploy.osls(PLAN, "deploy")
    assert missing.value.code == "no_node"


def test_every_upload_invalidates_every_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reference twice would be taken for a repetition, and nothing would be forgotten."""
    s3, cloudfront = Recording(), Recording()
    made = {"ConsoleBucketName": "b", "ConsoleDistribution": "D1"}
    monkeypatch.setattr(deploy, "outputs", lambda _: made)
    monkeypatch.setattr(deploy.Plan, "client", lambda _, name: s3 if name == "s3" else cloudfront)

    deploy.upload_console(PLAN)
    deploy.upload_console(PLAN)

    assert s3.asked
    first, second = cloudfront.asked
    assert first["InvalidationBatch"]["Paths"]["Items"] == ["/*"]
    assert (
        first["InvalidationBatch"]["CallerReference"]
        != second["InvalidationBatch"]["CallerReference"]
    )


def told(*arguments: str) -> dict[str, Any]:
    """What a failing command says, with its one fix line."""
    words = run.refused(*arguments)
    assert words["fix"]
    assert "\n" not in words["fix"]
    return words


BAD_NAMES = ("Prod", "a_b", "1st", "a-stage-of-17-let", "")


@pytest.mark.parametrize(
    ("line", "code", "fix"),
    [
        ("deploy staging", "unknown_stage", "dev, prod"),  # it would have become a third stack
        ("deploy default", "unknown_stage", "dev, prod"),
        ("deploy dev --region eu-centrl-1", "unknown_region", "eu-central-1"),
        ("doctor --stage nope", "unknown_stage", "dev, prod"),
        ("doctor --stage dev --region x", "unknown_region", "us-east-1"),
        # CloudFormation would find out half way
        *((f"deploy {name}", "bad_stage", "lower-case letters") for name in BAD_NAMES),
    ],
)
def test_a_typing_error_in_a_stage_or_region_is_refused(line: str, code: str, fix: str) -> None:
    """Otherwise it is a connection error, minutes later; those that are meant are named."""
    words = told(*line.split(" "))

    assert words["code"] == code
    assert fix in words["fix"]
    assert ("us-east-1" in words["fix"]) == line.endswith(" x")  # near ones alone
    deploy.check_stage_name("a-stage-of-16-le")


@pytest.mark.usefixtures("no_credentials")
def test_without_credentials_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packaging takes a minute, and the answer is known before."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)

    words = told("deploy", "dev", "--secrets-only")

    assert words["code"] == "no_credentials"
    assert "aws sts get-caller-identity" in words["fix"]


def test_a_missing_profile_and_a_silent_aws_say_what_to_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody should have to read a traceback to sign in."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    assert told("deploy", "dev", "--secrets-only")["code"] == "aws_unreachable"

    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert told("deploy", "dev", "--secrets-only")["code"] == "no_credentials"


def test_aws_refusals_become_one_sentence_and_one_fix() -> None:
    """By the code AWS sends: old credentials, a missing right, anything else."""
    codes = {
        "ExpiredToken": "credentials_refused",
        "InvalidClientTokenId": "credentials_refused",
        **dict.fromkeys(
            ("AuthFailure", "ExpiredTokenException", "SignatureDoesNotMatch"), "credentials_refused"
        ),
        "UnrecognizedClientException": "credentials_refused",
        "AccessDenied": "access_denied",
        "AccessDeniedException": "access_denied",
        "UnauthorizedOperation": "access_denied",
        "ThrottlingException": "ThrottlingException",
    }
    for code, ours in codes.items():
        with pytest.raises(CommandFailed) as caught, account.told("us-east-1"):
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "PutParameter")
        assert caught.value.code == ours
    with pytest.raises(CommandFailed, match="does not answer") as silent, account.told("us-east-1"):
        raise ReadTimeoutError(endpoint_url="https://x")
    assert silent.value.code == "aws_unreachable"


def test_a_stack_that_may_not_be_read_does_not_count_as_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Deploying it once more would end in the same refusal."""

    def describe(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeStacks")

    stacks = SimpleNamespace(describe_stacks=describe)
    monkeypatch.setattr(deploy.Plan, "client", lambda *_: stacks)

    with pytest.raises(CommandFailed, match="forbids DescribeStacks") as refused:
        deploy.outputs(PLAN)

    assert refused.value.code == "access_denied"


def test_secrets_for_a_stage_that_was_never_deployed_name_the_way(aws: None) -> None:
    """The key that encrypts them comes with the stack."""
    with pytest.raises(CommandFailed, match="no stack minutehand-dev") as caught:
        deploy.put_secrets(PLAN)

    assert caught.value.code == "not_deployed"
    assert "--region" in str(caught.value.fix)


@pytest.mark.parametrize("url", ["http://x.supabase.co", "https://x.supabase.co/rest/v1", "x"])
def test_an_address_that_is_no_projects_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    """It would be found out by the first tick."""
    (tmp_path / "minutehand.stages.yml").write_text(
        f"default: {{supabaseUrl: '{url}', supabasePublishableKey: k, alarmEmail: a@example.com}}\n"
        "dev: {}\n"
    )
    monkeypatch.setenv("MINUTEHAND_PROJECT", str(tmp_path))

    with pytest.raises(CommandFailed, match="supabaseUrl"):
        deploy.check_filled(PLAN)
    stages = tmp_path / "minutehand.stages.yml"
    stages.write_text(stages.read_text().replace(f"'{url}'", "https://x.supabase.co:8443"))
    deploy.check_filled(PLAN)
    with pytest.raises(CommandFailed, match="secrets are missing"):
        deploy.check_filled(replace(PLAN, secrets={}))
    stages.write_text(stages.read_text().replace("dev: {}", "dev: {workerMemory: 64}"))
    with pytest.raises(CommandFailed, match="workerMemory must be") as refused:
        deploy.check_filled(PLAN)
    assert refused.value.code == "bad_parameter"
