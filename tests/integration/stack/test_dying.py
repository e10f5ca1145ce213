"""A part of the local stack, or its launcher, is killed."""

import subprocess
import sys

import psutil
import pytest

from minutehand.local.aws import BUCKET, client
from minutehand.local.running import find_launcher
from tests.support.paths import ROOT
from tests.support.patience import responds, until
from tests.support.stacks import RunningStack, children


def output_of(stack: RunningStack) -> str:
    return (stack.folder / "launcher.out").read_text(errors="replace")


@pytest.mark.parametrize("part", ["postgres", "api", "gateway", "realtime", "aws"])
def test_a_part_that_is_killed_comes_back_and_the_stack_says_so(
    stack: RunningStack, part: str
) -> None:
    """The launcher restarts a part of the stack that was killed, and prints this.

    The part is killed again before it is ready.
    """
    before = len(output_of(stack))
    victims: list[psutil.Process] = []
    for _ in range(2):
        until(lambda: children(stack).get(part) not in (None, *victims))
        victims.append(children(stack)[part])
        victims[-1].kill()

    killed = f"{part} was killed by SIGKILL"
    until(lambda: output_of(stack)[before:].count(killed) == 2)
    until(lambda: f"{part} is back" in output_of(stack).rpartition(killed)[2])
    assert children(stack)[part] not in victims
    until(lambda: responds(f"{stack.api_url}/health"))


def test_nothing_outlives_a_killed_launcher_and_the_next_one_starts(stack: RunningStack) -> None:
    """When the launcher is killed, all parts of the stack end. The next start keeps the data."""
    secret = stack.supabase_jwt_secret
    video = {"Bucket": BUCKET, "Key": "workspaces/1/video.mp4"}
    client("s3", stack.aws_endpoint_url).put_object(**video, Body=b"moving")
    stack.run("create table scratch_outlived ()")
    orphans = list(children(stack).values())
    assert len(orphans) == 5
    assert find_launcher(stack.values, "SUPABASE_URL") == stack.launcher.pid

    stack.launcher.kill()
    stack.launcher.wait()
    assert find_launcher(stack.values, "SUPABASE_URL") == 0

    _, alive = psutil.wait_procs(orphans, timeout=90)
    assert not alive
    stack.start_again()
    assert stack.run("select to_regclass('scratch_outlived') is not null") == [(True,)]
    assert stack.supabase_jwt_secret == secret
    kept = client("s3", stack.aws_endpoint_url).get_object(**video)
    assert kept["Body"].read() == b"moving"


def test_a_second_launcher_is_sent_away(stack: RunningStack) -> None:
    """A second launcher with the same data folder exits and names the first one."""
    second = subprocess.run(
        [sys.executable, "-m", "minutehand.local", "--state", str(stack.folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert second.returncode == 3
    assert str(stack.launcher.pid) in second.stdout
    assert responds(f"{stack.api_url}/health")
