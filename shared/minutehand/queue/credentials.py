"""The key workers sign in with: given, minted from the JWT secret, or the project's secret key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from minutehand.clock import Clock, SystemClock
from minutehand.config import ConfigurationError, Settings
from minutehand.telemetry import current_traceparent

WORKER_ROLE = "job_worker"
#: How a project's secret keys begin; older ones are JWTs.
SECRET_PREFIX = "sb_secret_"
#: With fewer days left the worker's key is worth replacing.
KEY_WARN_DAYS = 30.0
_GUEST_SESSION = "guest_"
_GUEST_SESSION_ID = re.compile(r"guest_[0-9A-Za-z]+")


def is_guest_session(session_id: str) -> bool:
    """Whether a session id is a key to it, made by `open_guest_session`: kept out of logs."""
    return session_id.startswith(_GUEST_SESSION)


def redacted(text: str) -> str:
    """`text` as a log may show it: the id of a guest session is a key, and is omitted."""
    return _GUEST_SESSION_ID.sub("guest_…", text)


class WorkerKey:
    """Headers that let a worker in, fresh for at least the next minute."""

    LIFETIME_SECONDS = 600
    REFRESH_BEFORE_SECONDS = 120

    def __init__(self, settings: Settings, *, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._minted: str | None = None
        self._refresh_at = 0.0
        keys = ("supabase_worker_key", "supabase_jwt_secret", "supabase_secret_key")
        if not any(getattr(settings, name) for name in keys):
            raise ConfigurationError(
                "SUPABASE_WORKER_KEY",
                "must be set, or one of SUPABASE_JWT_SECRET and SUPABASE_SECRET_KEY instead",
                "eyJhbGciOi…",
            )

    def headers(self) -> Mapping[str, str]:
        """`apikey` and `Authorization` for one call."""
        settings = self._settings
        if settings.supabase_worker_key:
            token = settings.supabase_worker_key
        elif settings.supabase_jwt_secret:
            token = self._mint(settings.supabase_jwt_secret)
        else:
            return secret_headers(settings.supabase_secret_key or "")
        return {"apikey": settings.supabase_publishable_key, "Authorization": f"Bearer {token}"}

    def forget(self) -> None:
        """Mint again at the next call; for a token that was refused."""
        self._minted = None

    def _mint(self, secret: str) -> str:
        import jwt  # only here: it takes a worker 70 ms, and a key that is given needs none

        # wall time, not monotonic: a frozen Lambda's monotonic clock may stop
        now = self._clock.now().timestamp()
        if self._minted is None or now >= self._refresh_at:
            claims = {
                "role": WORKER_ROLE,
                "iss": f"{self._settings.supabase_url}/auth/v1",
                "iat": int(now) - 30,  # a server's clock may be slow
                "exp": int(now) + self.LIFETIME_SECONDS,
            }
            self._minted = jwt.encode(claims, secret, "HS256")
            self._refresh_at = now + self.LIFETIME_SECONDS - self.REFRESH_BEFORE_SECONDS
        return self._minted


def secret_headers(secret: str) -> dict[str, str]:
    """What a request carries for a project's secret key."""
    if secret.startswith(SECRET_PREFIX):
        return {"apikey": secret}
    return {"apikey": secret, "Authorization": f"Bearer {secret}"}


def days_left(token: str | None, now: datetime) -> float | None:
    """Days until a JWT expires, unverified; negative once it has; None when it never does."""
    import jwt  # as above

    try:
        claims = jwt.decode(token or "", options={"verify_signature": False})
        return (float(claims["exp"]) - now.timestamp()) / 86_400
    except (jwt.InvalidTokenError, KeyError, TypeError, ValueError):
        return None


def caller_headers(settings: Settings, token: str | None) -> dict[str, str]:
    """What a request carries for the bearer of `token`; for an anonymous guest when None."""
    headers = {"apikey": settings.supabase_publishable_key}
    if token is not None and token.startswith(SECRET_PREFIX):
        headers = secret_headers(token)
    elif token is not None:
        headers["Authorization"] = f"Bearer {token}"
    if traceparent := current_traceparent():
        headers["X-Minutehand-Trace"] = traceparent
    return headers
