"""Keys of workers and callers.

A worker's key is the configured key, a token signed with the legacy secret, or the project's secret
key.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta

from minutehand.clock import Clock, SystemClock
from minutehand.config import ConfigurationError, Settings
from minutehand.queue.errors import TokenRefused
from minutehand.telemetry import current_traceparent

WORKER_ROLE = "job_worker"
#: PostgREST's error code for a token that no known key has signed.
BAD_SIGNATURE = "PGRST301"
#: Prefix of a project's secret keys. Legacy keys are JWTs.
SECRET_PREFIX = "sb_secret_"
#: If a worker key expires within this number of days, a warning recommends a new key.
KEY_WARN_DAYS = 30.0
_GUEST_SESSION = "guest_"
_GUEST_SESSION_ID = re.compile(r"guest_[0-9A-Za-z]+")


def is_guest_session(session_id: str) -> bool:
    """Return whether a session id was created by `open_guest_session`.

    The id of a guest session must not be logged, because the id grants access.
    """
    return session_id.startswith(_GUEST_SESSION)


def redact(text: str) -> str:
    """Remove the ids of guest sessions from a text, because the ids grant access."""
    return _GUEST_SESSION_ID.sub("guest_…", text)


class WorkerKey:
    """Headers that authenticate a worker. The headers are valid for at least the next minute."""

    LIFETIME_SECONDS = 600
    REFRESH_BEFORE_SECONDS = 120

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._cached_token: str | None = None
        self._refresh_at = 0.0
        #: Time by which the server's clock was ahead of this machine's at the last rejection.
        self._server_ahead = timedelta()
        self._is_secret_rejected = False
        keys = ("supabase_worker_key", "supabase_jwt_secret", "supabase_secret_key")
        if not any(getattr(settings, name) for name in keys):
            raise ConfigurationError(
                "SUPABASE_WORKER_KEY",
                "must be set, unless SUPABASE_JWT_SECRET or SUPABASE_SECRET_KEY is set",
                "eyJhbGciOi…",
            )

    def headers(self) -> Mapping[str, str]:
        """Return the headers `apikey` and `Authorization` for one call."""
        settings = self._settings
        if settings.supabase_worker_key:
            token = settings.supabase_worker_key
        elif settings.supabase_jwt_secret and not self._is_secret_rejected:
            token = self._mint(settings.supabase_jwt_secret)
        else:
            return secret_headers(settings.supabase_secret_key or "")
        return {"apikey": settings.supabase_publishable_key, "Authorization": f"Bearer {token}"}

    def invalidate(self, refused: TokenRefused) -> None:
        """Use another token in the next call, because the last token was rejected.

        The next token's times follow the server's clock, because the clock of this machine may be
        wrong. If the signature was rejected, use the project's secret key from now on. A project
        with `signing_keys_path`, or with a revoked legacy secret, accepts no token that the legacy
        secret has signed.
        """
        self._cached_token = None
        if refused.server_time is not None:
            self._server_ahead = refused.server_time - self._clock.now()
        self._is_secret_rejected = refused.code == BAD_SIGNATURE and bool(
            self._settings.supabase_secret_key
        )

    def _mint(self, secret: str) -> str:
        # import PyJWT only to sign a token, because the import takes 70 ms
        import jwt

        # use wall time, because the monotonic clock may stop while Lambda freezes the process
        now = (self._clock.now() + self._server_ahead).timestamp()
        if self._cached_token is None or now >= self._refresh_at:
            claims = {
                "role": WORKER_ROLE,
                "iss": f"{self._settings.supabase_url}/auth/v1",
                "iat": int(now) - 30,  # so that a server whose clock is late accepts the token
                "exp": int(now) + self.LIFETIME_SECONDS,
            }
            self._cached_token = jwt.encode(claims, secret, "HS256")
            self._refresh_at = now + self.LIFETIME_SECONDS - self.REFRESH_BEFORE_SECONDS
        return self._cached_token


def secret_headers(secret: str) -> dict[str, str]:
    """Return the headers of a request that authenticates with a project's secret key."""
    if secret.startswith(SECRET_PREFIX):
        return {"apikey": secret}
    return {"apikey": secret, "Authorization": f"Bearer {secret}"}


def days_left(token: str | None, now: datetime) -> float | None:
    """Return the days until an unverified JWT expires, or None if the JWT never expires."""
    import jwt  # import late, because the import takes 70 ms

    try:
        claims = jwt.decode(token or "", options={"verify_signature": False})
        return (float(claims["exp"]) - now.timestamp()) / 86_400
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
        return None


def caller_headers(settings: Settings, token: str | None) -> dict[str, str]:
    """Return the headers of a request with `token`.

    If `token` is None, the headers are those of an anonymous guest.
    """
    headers = {"apikey": settings.supabase_publishable_key}
    if token is not None and token.startswith(SECRET_PREFIX):
        headers = secret_headers(token)
    elif token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if traceparent := current_traceparent():
        headers["X-Minutehand-Trace"] = traceparent
    if settings.worker_function_name:  # this process invokes the worker (queue.wake_worker)
        headers["X-Minutehand-Wakes"] = "true"
    return headers
