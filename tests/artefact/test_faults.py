"""Processors that block their worker under Lambda's rules, as with `make run LAMBDA=1`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from minutehand.deploy.package import TEMPLATE
from tests.artefact.stack import Stack
from tests.support.faults import FAULTS, FaultyHost, faulty_host
from tests.support.stacks import RunningStack


@pytest.fixture(scope="module")
def host(
    stack: RunningStack, stacks: dict[str, Stack], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FaultyHost]:
    """The functions of this checkout in Lambda's runtime, with the faulty app."""
    command = ("minutehand.local.lambda_functions", "--template", stacks["dev"].folder / TEMPLATE)
    with faulty_host(stack, tmp_path_factory.mktemp("faulty"), *command) as running:
        yield running


def test_a_result_after_its_timeout_is_refused_with_its_line(host: FaultyHost) -> None:
    """No other process could stop it in time."""
    [fault] = [fault for fault in FAULTS if fault.name == "late result"]
    with host.planted(fault) as job_id:
        told = json.dumps(host.call("GET", f"/api/jobs/{job_id}/explain"))

    assert [word for word in fault.words if str(word) not in told] == [], told


def test_a_worker_that_hangs_takes_nothing_else_with_it(host: FaultyHost) -> None:
    """The API answers from environments of its own, and the lease gives the job back."""
    job_id = host.enqueue("hang", {})
    host.wait(job_id, "running")
    with host.connect() as connection:
        connection.execute(
            "update queue.leases set expires_at = queue.clock() - interval '1 second',"
            " look_at = '-infinity' where job_id = %s",
            (job_id,),
        )

    host.wait(job_id, "failed")

    told = host.call("GET", f"/api/jobs/{job_id}/explain")
    assert "its loop was blocked" in told["remedy"]
