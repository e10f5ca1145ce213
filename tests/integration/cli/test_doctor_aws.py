"""Faults of a deployed stage, which the doctor must find with their fixes."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minutehand.cli.doctor.findings import Finding, Target
from minutehand.cli.doctor.runner import find_target, run_checks
from minutehand.cli.stage import Stage
from minutehand.deploy.parameters import NEEDED, write_parameters
from minutehand.terminal.connection import CommandFailed
from tests.support.aws_account import Account

STAGES = """\
prod:
  supabaseUrl: https://abcdefghijklmnopqrst.supabase.co
  supabasePublishableKey: sb_publishable_1
  alarmEmail: ada@acme.test
"""
URL = "https://abcdefghijklmnopqrst.supabase.co"
SECRETS = {
    "WORKER_SECRET_TOKEN": "w" * 32,
    "BACKGROUND_JOB_TOKEN": "b" * 32,
    "SUPABASE_WORKER_KEY": "k",
}
#: What the doctor reads of a stack, as infra/aws/worker.yml has it.
TEMPLATE = {
    "Resources": {
        "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {}}},
        "Failures": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "shop-prod-failures"}},
    },
    "Outputs": {
        "ServiceKeyArn": {"Value": {"Fn::GetAtt": ["Key", "Arn"]}},
        "FailuresUrl": {"Value": {"Ref": "Failures"}},
    },
}


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    """An account with the stage `prod` of the project `shop`."""
    account = Account()
    iam, functions = account.client("iam"), account.client("lambda")
    role = iam.create_role(RoleName="worker", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("main.py", "")
    for name in NEEDED:
        functions.create_function(
            FunctionName=f"shop-prod-{name}",
            Runtime="python3.13",
            Role=role,
            Handler="main.main",
            Code={"ZipFile": code.getvalue()},
            Environment={"Variables": {"SUPABASE_URL": URL}},
        )
    account.client("cloudformation").create_stack(
        StackName="shop-prod", TemplateBody=json.dumps(TEMPLATE)
    )
    write_parameters(account.client("ssm"), "shop", "prod", SECRETS)
    yield account
    account.close()


@pytest.fixture(autouse=True)
def project(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the project's folder, signed in to the account."""
    (tmp_path / "minutehand.toml").write_text('name = "shop"\napps = []\n')
    (tmp_path / "minutehand.stages.yml").write_text(STAGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


def check_stage() -> Finding:
    """Run the check of AWS on the stage."""
    [finding] = run_checks(Target({}, Stage("prod", "us-east-1")), ["aws"])
    return finding


def plant(account: Account, fault: str) -> Any:
    """Plant a fault and return the call that repairs it, which the doctor's fix describes."""
    functions, sqs, kms = (account.client(name) for name in ("lambda", "sqs", "kms"))
    worker = "shop-prod-worker"
    outputs = Stage("prod", "us-east-1").outputs()
    if fault == "stopped":
        functions.put_function_concurrency(FunctionName=worker, ReservedConcurrentExecutions=0)
        return lambda: functions.delete_function_concurrency(FunctionName=worker)
    if fault == "another project":

        def use(url: str) -> None:
            variables = {"Variables": {"SUPABASE_URL": url}}
            functions.update_function_configuration(FunctionName=worker, Environment=variables)

        use("https://zzzzzzzzzzzzzzzzzzzz.supabase.co")
        return lambda: use(URL)
    if fault == "failures":
        sqs.send_message(QueueUrl=outputs["FailuresUrl"], MessageBody="{}")
        return lambda: sqs.purge_queue(QueueUrl=outputs["FailuresUrl"])
    key = outputs["ServiceKeyArn"].rpartition("/")[2]  # moto disables no key by its ARN
    kms.disable_key(KeyId=key)
    return lambda: kms.enable_key(KeyId=key)


#: A fault | the verdict | a part of the detail | a part of the fix
FAULTS = """\
stopped | fail | concurrency of shop-prod-worker is 0 | aws lambda delete-function-concurrency
another project | fail | uses https://zzzz | minutehand deploy prod
failures | warn | 1 invocations of the worker failed | aws sqs receive-message --queue-url
disabled key | fail | the key of the secrets is Disabled | aws kms enable-key --key-id
"""


@pytest.mark.parametrize("fault", FAULTS.splitlines())
def test_a_fault_of_the_stage_is_found(account: Account, fault: str) -> None:
    """A part that was switched off in an emergency, for example, must not be forgotten."""
    name, verdict, detail, fix = fault.split(" | ")
    assert check_stage().verdict == "ok"

    repair = plant(account, name)
    try:
        finding = check_stage()
    finally:
        repair()

    assert (finding.verdict, detail in finding.detail) == (verdict, True), finding
    assert fix in str(finding.fix), finding
    assert check_stage().verdict == "ok"


def test_a_stage_of_another_region_is_named() -> None:
    """AWS only reports that a stack does not exist."""
    with pytest.raises(CommandFailed) as failed:
        find_target("prod", "eu-west-1", None)

    assert "in eu-west-1" in str(failed.value)
    assert "--region" in str(failed.value.fix)
