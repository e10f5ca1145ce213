"""`minutehand rotate` on a file of secrets: new before old, one file, nothing printed."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from typer.testing import CliRunner

from minutehand.cli import rotate as rotation
from minutehand.cli.deploy import Plan
from minutehand.cli.tokens import new_worker_key, replace_values
from minutehand.terminal.connection import CommandFailed, Connection
from tests.support.command import app

OLD = "# ours\nWORKER_SECRET_TOKEN=old-worker\nBACKGROUND_JOB_TOKEN=old-job\nSPEECH_KEY=kept\n"


@pytest.fixture(autouse=True)
def no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that knows no project."""
    for name in ("SUPABASE_URL", "SUPABASE_SECRET_KEY", "SUPABASE_JWT_SECRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What deploy reads."""
    path = tmp_path / "secrets.env"
    path.touch(mode=0o600)
    path.write_text(OLD)
    return path


def values(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def rotate(file: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    result = CliRunner().invoke(app, ["rotate", "--secrets", str(file), "--json", *more])
    words = result.stderr if result.exit_code else result.stdout
    return result.exit_code, json.loads(words.splitlines()[-1]), result.stdout


def test_new_tokens_are_taken_beside_the_old_until_the_end(file: Path) -> None:
    """Functions take two, so callers with the old one are served meanwhile."""
    code, said, printed = rotate(file, "--only", "tokens")
    begun = values(file)

    assert code == 0
    assert said["changed"] == ["WORKER_SECRET_TOKEN", "BACKGROUND_JOB_TOKEN"]
    assert "--secrets-only" in said["next"]
    assert "--finish" in said["next"]
    for name, old in (("WORKER_SECRET_TOKEN", "old-worker"), ("BACKGROUND_JOB_TOKEN", "old-job")):
        new, kept = begun[name].split(",")
        assert (kept, len(new) >= 32) == (old, True)
        assert new not in printed
    assert begun["SPEECH_KEY"] == "kept"
    assert file.read_text().startswith("# ours\n")
    assert file.stat().st_mode & 0o077 == 0
    assert [path.name for path in file.parent.iterdir()] == [file.name]

    again, refused, _ = rotate(file, "--only", "tokens")
    assert (again, refused["code"]) == (1, "rotation_under_way")
    assert rotate(file, "--finish")[0] == 0
    assert values(file)["WORKER_SECRET_TOKEN"] == begun["WORKER_SECRET_TOKEN"].split(",")[0]
    assert rotate(file, "--finish")[1]["code"] == "nothing_to_finish"


def test_a_stolen_token_is_replaced_at_once(file: Path) -> None:
    """Also in the middle of a rotation: none of those before is kept."""
    rotate(file, "--only", "tokens")
    begun = values(file)["WORKER_SECRET_TOKEN"].split(",")

    code, said, _ = rotate(file, "--only", "tokens", "--now")
    [left] = values(file)["WORKER_SECRET_TOKEN"].split(",")

    assert code == 0
    assert left not in begun
    assert "--finish" not in said["next"]
    assert rotate(file, "--now", "--finish")[1]["code"] == "usage"


def test_the_workers_key_is_signed_by_the_imported_key(file: Path, tmp_path: Path) -> None:
    """For another year, or as long as is said."""
    private = ec.generate_private_key(ec.SECP256R1())
    key = tmp_path / "key.json"
    document = json.loads(ECAlgorithm.to_jwk(private)) | {"kid": "k1", "alg": "ES256"}
    key.write_text(json.dumps(document))
    env = tmp_path / "prod.env"
    env.write_text("SUPABASE_URL=https://abcdefghijklmnopqrst.supabase.co\n")

    code, said, printed = rotate(
        file, "--signing-key", str(key), "--env-file", str(env), "--days", "90"
    )
    token = values(file)["SUPABASE_WORKER_KEY"]
    claims = jwt.decode(token, private.public_key(), algorithms=["ES256"])

    assert code == 0
    assert said["changed"][-1] == "SUPABASE_WORKER_KEY"
    assert claims["role"] == "job_worker"
    assert claims["exp"] - claims["iat"] == 90 * 86_400
    assert claims["iss"] == "https://abcdefghijklmnopqrst.supabase.co/auth/v1"
    assert jwt.get_unverified_header(token)["kid"] == "k1"
    assert token not in printed
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "key.json"], cwd=tmp_path, check=True)
    again = rotate(file, "--signing-key", str(key), "--env-file", str(env), "--now")
    assert again[1]["code"] == "secrets_tracked"
    assert values(file)["SUPABASE_WORKER_KEY"] == token


@pytest.mark.parametrize(("step", "grace"), [("--finish", 360), ("--now", 0)])
def test_keys_before_are_refused_once_functions_have_the_new_one(
    file: Path, monkeypatch: pytest.MonkeyPatch, step: str, grace: int
) -> None:
    """Functions read their secrets every five minutes; a thief is given none."""
    asked: list[Any] = []

    def rpc(_: object, name: str, arguments: Any, *, as_operator: bool = False) -> Any:
        asked.append((name, arguments, as_operator))
        return {"from": "then"}

    monkeypatch.setattr(Connection, "rpc", rpc)
    monkeypatch.setenv("SUPABASE_URL", "https://another.example")
    with file.open("a") as more:
        more.write("SUPABASE_URL=https://x.example\nSUPABASE_SECRET_KEY=sb_secret_x\n")
        more.write(f"SUPABASE_JWT_SECRET={'s' * 40}\n")
    assert rotate(file, "--only", "key")[1]["refused"] is None
    assert rotate(file, "--only", "tokens", step)[1].get("refused") is None

    said = rotate(file, "--only", "key", step)[1]

    held = jwt.decode(values(file)["SUPABASE_WORKER_KEY"], options={"verify_signature": False})
    assert held["iss"] == "https://x.example/auth/v1", "the file's project, not the shell's"
    before = datetime.fromtimestamp(held["iat"], UTC).isoformat()
    revoked = {"p_before": before, "p_grace_seconds": grace}
    assert asked == [("revoke_worker_keys", revoked, True)]
    assert said["refused"] == {"from": "then"}


@pytest.mark.parametrize(
    ("arguments", "secrets", "code"),
    [
        ([], {}, "missing_setting"),  # no address, so nothing to sign for
        (["--now"], {"SUPABASE_JWT_SECRET": "s" * 40}, "missing_setting"),  # no SUPABASE_SECRET_KEY
        (["--finish"], {"SUPABASE_WORKER_KEY": "a.b.c"}, "missing_setting"),
        (["--stage", "never"], {"SUPABASE_JWT_SECRET": "s" * 40}, "unknown_stage"),
    ],
)
def test_what_is_missing_is_said_before_anything_changes(
    file: Path, arguments: list[str], secrets: dict[str, str], code: str
) -> None:
    """A half rotation would be worse than none."""
    held = OLD + "".join(f"{name}={value}\n" for name, value in secrets.items())
    if secrets:
        held += "SUPABASE_URL=https://abcdefghijklmnopqrst.supabase.co\n"
    file.write_text(held)

    exit_code, said, _ = rotate(file, *arguments)

    assert (exit_code, said["code"]) == (1, code)
    assert file.read_text() == held
    file.chmod(0o644)  # others would read the new secrets too
    assert rotate(file, *arguments)[1]["code"] == "secrets_exposed"
    assert file.read_text() == held


def test_a_stage_is_written_with_all_that_the_file_holds(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the secrets are complete and someone is signed in, or the file stays as it was."""
    written: list[Plan] = []
    refused = ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutParameter")

    def sign_in(plan: Plan, _: object) -> None:
        raise refused

    arguments = ("--only", "tokens", "--stage", "dev", "--region", "eu-central-1")
    assert rotate(file, *arguments)[1]["code"] == "secrets_missing"
    with file.open("a") as more:
        more.write("SUPABASE_WORKER_KEY=a.b.c\n")
    before = file.read_text()
    monkeypatch.setattr(rotation, "sign_in", sign_in)
    assert rotate(file, *arguments)[1]["code"] == "access_denied"
    assert file.read_text() == before
    monkeypatch.setattr(rotation, "sign_in", lambda *_: None)
    monkeypatch.setattr(rotation, "put_secrets", written.append)

    said = rotate(file, *arguments)[1]

    [plan] = written
    assert (plan.stage, plan.region, plan.secrets) == ("dev", "eu-central-1", values(file))
    assert said["next"] == "once every caller has the new ones, the same with --finish"
    monkeypatch.setattr(rotation, "put_secrets", lambda plan: sign_in(plan, None))
    assert rotate(file, *arguments, "--now")[1]["code"] == "access_denied"
    no_file = CliRunner().invoke(app, ["rotate", "--json", *arguments])
    assert json.loads(no_file.stderr.splitlines()[-1])["code"] == "no_secrets_file"


@pytest.mark.parametrize("key", ["a.b.c", jwt.encode({"role": "job_worker"}, "s" * 40, "HS256")])
def test_a_key_that_says_no_time_revokes_nothing(file: Path, key: str) -> None:
    """No key is older or newer than it."""
    with file.open("a") as more:
        more.write(f"SUPABASE_URL=https://x.example\nSUPABASE_SECRET_KEY=s\n{rotation.KEY}={key}\n")

    assert rotate(file, "--only", "key", "--finish")[1]["code"] == "bad_key"


def test_a_value_that_cannot_be_written_leaves_no_second_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would hold the new secrets; a line of a shell's is replaced too."""
    file.write_text("export KEY=old\n")

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="no space left"):
            replace_values(file, {"KEY": "new"})

    assert [path.name for path in file.parent.iterdir()] == [file.name]
    replace_values(file, {"KEY": "new"})
    assert file.read_text() == "KEY=new\n"


def test_an_imported_key_is_private_and_signs_each_key_once(tmp_path: Path) -> None:
    """The first of a list, as the CLI writes it; what is no such key is a sentence."""
    connection = Connection({"SUPABASE_URL": "https://x.example"})
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.json"
    document = {"alg": "ES256", **json.loads(ECAlgorithm.to_jwk(private))}
    path.write_text(json.dumps([document]))

    first, second = (new_worker_key(connection, path, 0.5) for _ in range(2))

    claims, others = (
        jwt.decode(token, private.public_key(), algorithms=["ES256"]) for token in (first, second)
    )
    assert claims["exp"] - claims["iat"] == 43_200
    assert claims["jti"] != others["jti"]
    assert "kid" not in jwt.get_unverified_header(first)
    public = {name: value for name, value in document.items() if name != "d"}
    for text in (json.dumps(public), "[]", "{}", '{"kty": "no"}', "no JSON", None):
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(CommandFailed) as refused:
            new_worker_key(connection, path, 1)
        assert refused.value.code == "bad_key"
