"""Workers that die behind each of their writes: each receipt is made once, and none is missing."""

from __future__ import annotations

import pytest

from tests.integration.beacon.conftest import ENDED, Providers, Station


@pytest.mark.timeout(600)
async def test_workers_killed_in_each_stage_make_one_receipt_of_each_execution(
    station: Station, providers: Providers
) -> None:
    """The chain has no gap, and the job ends as if no one had died."""
    job = await station.submit(constraints={"min_regions": 2})
    before = len(station.chain())

    async def ended() -> object:
        await station.publish()
        return (await station.look(job))["status"] in ENDED

    deaths = await station.survive(
        "beacon",
        ended,
        BEACON_PROVIDERS=providers.variable,
        SEALING_KEY_FILE=station.settings.sealing_key_file,
    )

    state = await station.look(job)
    assert (state["status"], state["reached"]) == ("completed", ["us-east", "eu-west"])
    assert [len(each["output"]["data"]["responses"]) for each in state["executions"]] == [2, 2]
    made = station.chain()[before:]
    assert len(made) == 3  # of each execution, and the closing one
    assert len(deaths) >= len(made), deaths
