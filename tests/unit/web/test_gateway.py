"""Events of API Gateway, whose path may have a prefix before the route."""

import pytest
from fastapi import FastAPI, Request, Response

from minutehand.functions.on_lambda import GatewayHandler
from minutehand.web.caller import rate_limit_subject
from minutehand.web.services import Services
from tests.support.lambda_events import LambdaContext, http_event
from tests.unit.web.conftest import SETTINGS


@pytest.mark.parametrize("prefix", ["", "/dev", "/v1/queue"])
def test_a_route_and_its_location_are_below_the_services_mount(prefix: str) -> None:
    """A response's location contains the prefix of the API's stage.

    A guest's address is the one that AWS saw.
    """
    app = FastAPI()
    app.state.services = Services(SETTINGS)

    @app.get("/api/jobs/{job_id}")
    async def get_job(job_id: str, request: Request) -> Response:
        return Response(
            rate_limit_subject(request.scope, None), headers={"location": f"/api/jobs/{job_id}"}
        )

    path = "/api/jobs/019a9f10-7e2c-7d31-9c52-0d6d5f5b7c11"
    forged = {"route": "GET /api/jobs/{proxy+}", "x-forwarded-for": "198.51.100.1"}
    event = http_event("GET", prefix + path, **forged)
    handler = GatewayHandler(app)
    answer = handler(event, LambdaContext())
    handler.close()

    result = (answer["statusCode"], answer["body"], answer["headers"]["location"])
    assert result == (200, "203.0.113.24", prefix + path)
