"""Dependencies that pass a route's caller, who is a user with a JWT or a guest of a session.

`tokens` verifies a token and builds a `caller.Caller`. Row level security grants access to rows.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from minutehand.queue.client import UserQueue
from minutehand.queue.credentials import SECRET_PREFIX, is_guest_session
from minutehand.queue.functions import CallerFunctions
from minutehand.web.caller import Caller, InvalidToken
from minutehand.web.errors import token_missing, unauthorized
from minutehand.web.services import Provided, services_of

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="userToken",
    description="A Supabase user's access token. Row level security decides what it may see.",
)
_service_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="operatorToken",
    description="WORKER_SECRET_TOKEN, or a service role token.",
)
#: Placeholder in the OpenAPI document that means "a user's token, or none". `functions.openapi`
#: replaces the placeholder.
GUESTS = "userTokenOrNone"
_guest_bearer = HTTPBearer(auto_error=False, scheme_name=GUESTS)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
#: Credentials of a route that guests may also use if ALLOW_ANONYMOUS is set.
GuestCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_guest_bearer)]
OperatorCredentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_service_bearer)]


def bearer_token(request: Request) -> str | None:
    """Return a request's bearer token, or a secret key that only the header `apikey` contains."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    key = request.headers.get("apikey", "")
    return key if key.startswith(SECRET_PREFIX) else None


def _token_of(request: Request, access_token: str | None) -> str | None:
    """Return the token in the header. For a stream, also accept a token in the query.

    EventSource cannot send headers. The API never logs query strings, but a client that can send a
    header should send the token in the header.
    """
    token = bearer_token(request)
    if token is None and access_token:
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise token_missing()
        return access_token
    return token


async def verify(request: Request, token: str | None) -> Caller:
    """Return the caller to whom `token` belongs, which is a user or the project's service.

    For any other token, raise an ApiError with status 401.
    """
    if token is None:
        raise token_missing()
    services = services_of(request)
    if token.startswith(SECRET_PREFIX):
        await services.verify_secret_key(token)
    try:
        return await services.verifier.verify(token)
    except InvalidToken as error:
        raise unauthorized(str(error), presented=True) from error


async def require_caller(request: Request, _: Credentials) -> AsyncIterator[Caller]:
    """Yield the signed-in user of a request. The user's concurrent requests are limited."""
    caller = await verify(request, bearer_token(request))
    async with services_of(request).request_slot(request, caller):
        yield caller


async def stream_caller(
    request: Request, _: Credentials, access_token: str | None = None
) -> Caller:
    """Return the signed-in user of an event stream. Event streams have a separate limit."""
    return await verify(request, _token_of(request, access_token))


async def guest_caller(
    request: Request,
    _: Credentials,
    session_id: Annotated[str, Path(max_length=255)],
    access_token: str | None = None,
) -> Caller | None:
    """Return the user who reads a session's events, or None for a guest with the session's id."""
    return await _user_or_holder(request, _token_of(request, access_token), session_id)


async def _user_or_holder(request: Request, token: str | None, session_id: str) -> Caller | None:
    is_allowed = services_of(request).settings.allow_anonymous and is_guest_session(session_id)
    return None if token is None and is_allowed else await verify(request, token)


#: Id of a guest session. The id authorizes a guest to read the session's jobs.
GuestSession = Annotated[
    str | None,
    Query(max_length=255, description="Id of the guest session to which the job belongs."),
]


async def job_follower(
    request: Request,
    _: Credentials,
    session_id: GuestSession = None,
    access_token: str | None = None,
) -> Caller | None:
    """Return the user who reads a job's events, or None for a guest who knows its session's id."""
    return await _user_or_holder(request, _token_of(request, access_token), session_id or "")


async def job_reader(
    request: Request, _: Credentials, session_id: GuestSession = None
) -> AsyncIterator[Caller | None]:
    """Yield the user who reads a job, or None for a guest who knows the id of the job's session."""
    caller = await _user_or_holder(request, bearer_token(request), session_id or "")
    async with services_of(request).request_slot(request, caller):
        yield caller


async def guest_unslotted(
    request: Request,
    _: GuestCredentials,
    access_token: Annotated[str | None, Query(description="Only for EventSource.")] = None,
) -> Caller | None:
    """Return the caller of an app's route that stays open and occupies its own stream slot."""
    token = _token_of(request, access_token)
    if token is None and services_of(request).settings.allow_anonymous:
        return None
    return await verify(request, token)


async def user_or_guest(
    request: Request, caller: Annotated[Caller | None, Depends(guest_unslotted)]
) -> AsyncIterator[Caller | None]:
    """Yield the user who calls an app's route. Yield None for a guest, if guests are allowed."""
    async with services_of(request).request_slot(request, caller):
        yield caller


#: The signed-in user, as the type of a route's argument.
SignedIn = Annotated[Caller, Depends(require_caller)]
#: The signed-in user who reads an event stream.
StreamReader = Annotated[Caller, Depends(stream_caller)]
#: The user who reads a session's events, or None for a guest.
MaybeGuest = Annotated[Caller | None, Depends(guest_caller)]
#: The user who reads a job's events, or None for a guest of the job's session.
JobFollower = Annotated[Caller | None, Depends(job_follower)]
#: The user who reads a job's output, or None for a guest of the job's session.
JobReader = Annotated[Caller | None, Depends(job_reader)]
#: The signed-in user, or None for a guest if ALLOW_ANONYMOUS is set.
UserOrGuest = Annotated[Caller | None, Depends(user_or_guest)]
#: A user or a guest of a route that stays open and occupies its own stream slot.
UserOrGuestUnslotted = Annotated[Caller | None, Depends(guest_unslotted)]


async def _queue_of_user(caller: SignedIn, services: Provided) -> UserQueue:
    return services.queue_of(caller)


async def _functions_of_user_or_guest(caller: UserOrGuest, services: Provided) -> CallerFunctions:
    return services.queue_of(caller)


#: Client of the queue with the rights of the signed-in user.
CallerQueue = Annotated[UserQueue, Depends(_queue_of_user)]
#: Client of the SQL functions with the rights of the signed-in user.
UserFunctions = Annotated[CallerFunctions, Depends(_queue_of_user)]
#: Client of the SQL functions with the rights of the signed-in user, or of a guest.
UserOrGuestFunctions = Annotated[CallerFunctions, Depends(_functions_of_user_or_guest)]

#: Function that calls a SQL function of the queue by its name, with named arguments.
Call = Callable[..., Awaitable[dict[str, Any]]]


async def _queue_of_workspace(workspace_id: UUID, queue: CallerQueue) -> Call:
    return partial(queue.call, workspace_id=str(workspace_id))


#: Function that calls a SQL function of the queue for the workspace in the path.
WorkspaceQueue = Annotated[Call, Depends(_queue_of_workspace)]
