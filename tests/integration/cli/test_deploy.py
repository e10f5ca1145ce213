"""Deploying against moto's AWS: what is checked before, what is written, what doctor then sees."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from infra.aws.parameters import parameter_name
from infra.cli import deploy
from infra.cli.__main__ import app
from infra.cli.connection import CommandFailed
from infra.cli.doctor import cloud
from infra.cli.doctor.command import run as run_check
from infra.cli.doctor.findings import Check, Finding, Patient, Verdict

SECRETS = {
    "WORKER_SECRET_TOKEN": "w" * 40,
    "BACKGROUND_JOB_TOKEN": "b" * 40,
    "SUPABASE_WORKER_KEY": "a.b.c",
}
PLAN = deploy.Plan("dev", "us-east-1", SECRETS)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield


def client(service: str) -> Any:
    return boto3.client(service, region_name="us-east-1")


def test_placeholders_are_named_before_anything_is_built() -> None:
    """The stages file comes with placeholders, and they must not reach AWS."""
    result = CliRunner().invoke(app, ["deploy", "dev", "--dry-run", "--json"])

    told = json.loads([line for line in result.stderr.splitlines() if line.startswith("{")][-1])
    assert result.exit_code == 1
    assert told["code"] == "placeholders"
    assert "supabaseUrl" in told["error"]
    assert "infra/aws/stages.yml" in told["fix"]


def test_a_filled_stage_has_none(tmp_path: Path) -> None:
    """A stage's own value fills the default's placeholder."""
    stages = tmp_path / "stages.yml"
    stages.write_text(
        "default: {supabaseUrl: https://<project-ref>.supabase.co}\nprod: {}\ndev: {supabaseUrl: https://x}\n"
    )

    assert deploy.placeholders("prod", stages) == ["supabaseUrl"]
    assert deploy.placeholders("dev", stages) == []


def test_missing_secrets_are_all_named_at_once() -> None:
    """One run, one list."""
    with pytest.raises(
        CommandFailed, match=r"BACKGROUND_JOB_TOKEN.*SUPABASE_WORKER_KEY.*WORKER_SECRET"
    ) as caught:
        deploy.check_secrets(deploy.Plan("dev", "us-east-1", {}))

    assert "minutehand token" in str(caught.value.fix)


def test_a_secrets_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    """It holds the keys to everybody's jobs."""
    file = tmp_path / "secrets.env"
    file.write_text("WORKER_SECRET_TOKEN=x\n")
    file.chmod(0o644)
    with pytest.raises(CommandFailed, match="others may read"):
        deploy.read_secrets(file)
    file.chmod(0o600)

    assert deploy.read_secrets(file) == {"WORKER_SECRET_TOKEN": "x"}


def test_each_function_gets_its_own_secrets_and_no_others(aws: None) -> None:
    """Under the stack's key; a second run rotates them."""
    stack = {"Resources": {"Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {}}}}}
    stack["Outputs"] = {"ServiceKeyArn": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}}}
    client("cloudformation").create_stack(
        StackName="minutehand-dev", TemplateBody=json.dumps(stack)
    )

    deploy.put_secrets(PLAN)
    deploy.put_secrets(
        deploy.Plan("dev", "us-east-1", {**SECRETS, "BACKGROUND_JOB_TOKEN": "n" * 40})
    )

    ssm = client("ssm")
    read = {
        function: ssm.get_parameter(Name=parameter_name("dev", function), WithDecryption=True)[
            "Parameter"
        ]
        for function in ("jobs", "status", "worker", "health")
    }
    assert {found["Type"] for found in read.values()} == {"SecureString"}
    assert json.loads(read["jobs"]["Value"]) == {}
    assert json.loads(read["health"]["Value"]) == {"SUPABASE_WORKER_KEY": "a.b.c"}
    assert json.loads(read["worker"]["Value"])["BACKGROUND_JOB_TOKEN"] == "n" * 40
    assert "BACKGROUND_JOB_TOKEN" not in json.loads(read["status"]["Value"])
    described = ssm.describe_parameters()["Parameters"]
    assert all(":key/" in parameter["KeyId"] for parameter in described)


def finding(check: Check, stage: str = "dev") -> Finding:
    patient = Patient({"STAGE": stage}, stage)
    return run_check(check, patient)


CHECKS = {check.name: check for check in cloud.CHECKS}


def test_doctor_misses_what_was_never_deployed(aws: None) -> None:
    """An empty account, told check by check."""
    told = {name: finding(check) for name, check in CHECKS.items()}

    assert {name: f.verdict for name, f in told.items()} == dict.fromkeys(CHECKS, Verdict.FAIL)
    assert "does not exist" in told["parameters"].detail
    assert "no schedule" in told["aws-schedule"].detail
    assert "minutehand-dev-jobs does not exist" in told["aws-functions"].detail
    assert all(f.fix and "\n" not in f.fix for f in told.values())


def test_doctor_sees_incomplete_and_plain_parameters(aws: None) -> None:
    """A plain String is readable by everybody with the console."""
    ssm = client("ssm")
    for function in ("jobs", "status", "worker", "health"):
        ssm.put_parameter(Name=parameter_name("dev", function), Value="{}", Type="SecureString")
    assert "lacks WORKER_SECRET_TOKEN" in finding(CHECKS["parameters"]).detail

    ssm.put_parameter(Name=parameter_name("dev", "jobs"), Value="{}", Type="String", Overwrite=True)
    assert "plain String" in finding(CHECKS["parameters"]).detail

    deploy_plan = deploy.Plan("dev", "us-east-1", SECRETS)
    deploy.write_parameters(ssm, "dev", deploy_plan.secrets)
    assert finding(CHECKS["parameters"]).verdict is Verdict.OK


def make_functions(**changes: Any) -> None:
    role = client("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    for function in ("jobs", "status", "worker", "health"):
        client("lambda").create_function(
            FunctionName=f"minutehand-dev-{function}",
            Role=role,
            Handler="x.y",
            Code={"ZipFile": b"PK\x05\x06" + bytes(18)},
            **{"Runtime": "python3.13", "Environment": {"Variables": {"STAGE": "dev"}}, **changes},
        )


def test_doctor_sees_a_secret_in_a_functions_environment(aws: None) -> None:
    """Somebody pasted it into the console in a hurry."""
    make_functions(Environment={"Variables": {"ANYTHING": "sb_secret_0123456789"}})

    told = finding(CHECKS["aws-functions"])

    assert told.verdict is Verdict.FAIL
    assert "shows ANYTHING" in told.detail
    assert "rotate" in str(told.fix)


def test_doctor_sees_the_wrong_runtime(aws: None) -> None:
    """Its byte code would be compiled anew at every cold start."""
    make_functions(Runtime="python3.12")

    assert "runs python3.12" in finding(CHECKS["aws-functions"]).detail


@pytest.mark.parametrize(
    ("state", "verdict"), [("ENABLED", Verdict.OK), ("DISABLED", Verdict.FAIL)]
)
def test_doctor_sees_a_disabled_schedule(aws: None, state: str, verdict: Verdict) -> None:
    """The one switch that stops everything silently."""
    scheduler = client("scheduler")
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
            "DeadLetterConfig": {"Arn": "arn:aws:sqs:us-east-1:123456789012:q"},
        },
    )

    assert finding(CHECKS["aws-schedule"]).verdict is verdict


def test_doctor_sees_waiting_failures(aws: None) -> None:
    """A message there is a question for a person."""
    sqs = client("sqs")
    urls = [
        sqs.create_queue(QueueName=f"minutehand-dev-{kind}-failures")["QueueUrl"]
        for kind in ("worker", "tick")
    ]
    assert finding(CHECKS["failure-queues"]).verdict is Verdict.OK
    sqs.send_message(QueueUrl=urls[0], MessageBody="{}")

    told = finding(CHECKS["failure-queues"])

    assert told.verdict is Verdict.WARN
    assert "worker-failures holds 1" in told.detail


def test_the_console_is_uploaded_with_its_configuration(
    aws: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Private bucket, right types, no cache for what changes."""
    stack: dict[str, Any] = {"Resources": {"B": {"Type": "AWS::S3::Bucket"}}}
    stack["Outputs"] = {"ConsoleBucketName": {"Value": {"Ref": "B"}}}
    client("cloudformation").create_stack(
        StackName="minutehand-dev", TemplateBody=json.dumps(stack)
    )

    deploy.upload_console(PLAN)

    s3 = client("s3")
    bucket = deploy.outputs(PLAN)["ConsoleBucketName"]
    config = s3.get_object(Bucket=bucket, Key="config.json")
    page = s3.get_object(Bucket=bucket, Key="index.html")
    assert json.load(io.BytesIO(config["Body"].read()))["stage"] == "dev"
    assert config["CacheControl"] == "no-store"
    assert page["ContentType"] == "text/html"
    html = page["Body"].read().decode()
    wanted = re.findall(r"/(vendor/[^\"' ]+\.js)", html)
    assert wanted
    for key in wanted:
        s3.head_object(Bucket=bucket, Key=key)
