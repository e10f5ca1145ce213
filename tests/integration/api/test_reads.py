"""The route `/api/status`, which returns statistics of the queue."""

from infra.bench.scratch import SECRET_KEY, user_token
from tests.contract.api import Api
from tests.support.engine import ACME
from tests.unit.web.conftest import error_of


async def test_status_is_the_operators_or_the_members_own(api: Api) -> None:
    """A caller with a secret key reads the statistics of all workspaces.

    A member reads those of one workspace, and other callers get 401.
    """
    api.engine.enqueue()
    api.engine.maintain()

    async def asked(**headers: str) -> list[int]:
        answers = [
            await api.http.get("/api/status", headers=headers, params=params)
            for params in ({}, {"workspace_id": ACME})
        ]
        assert all("work" in found.json()["types"] for found in answers if found.is_success)
        return [found.status_code for found in answers]

    assert await asked(authorization="Bearer worker-token") == [200, 200]
    assert await asked(authorization=f"Bearer {SECRET_KEY}") == [200, 200]
    assert await asked(apikey=SECRET_KEY) == [200, 200]
    assert await asked(authorization=f"Bearer {user_token()}") == [400, 200]
    assert await asked() == await asked(authorization="Bearer wrong-token") == [401, 401]
    assert error_of(await api.call("GET", "/api/status"))["code"] == "invalid_argument"
