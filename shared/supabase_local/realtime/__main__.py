"""`python -m supabase_local.realtime`: run the server until SIGTERM or SIGINT.

Environment: DATABASE_URL (a superuser's), PORT (0 picks a free one), SUPABASE_JWT_SECRET,
SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY, SUPABASE_JWKS, LOG_LEVEL and, for every field of
`limits.Limits`, REALTIME_<NAME>.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from collections.abc import Mapping

import uvloop

from minutehand.log import configure_logging
from supabase_local.realtime.limits import Limits
from supabase_local.realtime.server import RealtimeServer
from supabase_local.realtime.tokens import Verifier

logger = logging.getLogger("supabase_local.realtime")

_FILES = 65_536


def main(environ: Mapping[str, str]) -> int:
    """Run the server."""
    configure_logging(environ.get("LOG_LEVEL", "INFO"))
    try:
        url = environ["DATABASE_URL"]
        secret = environ["SUPABASE_JWT_SECRET"]
        port = int(environ.get("PORT", "0"))
        limits = Limits.from_env(environ)
    except (KeyError, ValueError) as error:
        print(f"realtime: cannot start, check the environment: {error}", file=sys.stderr)
        return 2
    verifier = Verifier(
        jwt_secret=secret,
        publishable_key=environ.get("SUPABASE_PUBLISHABLE_KEY", ""),
        secret_key=environ.get("SUPABASE_SECRET_KEY", ""),
        jwks=environ.get("SUPABASE_JWKS", ""),
    )
    _allow_many_sockets()
    uvloop.run(_serve(RealtimeServer(url, verifier, limits), port))
    return 0


def _allow_many_sockets() -> None:
    """Raise the limit on open files: each socket is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # macOS may refuse what it seems to offer; what was there before must do then
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _serve(server: RealtimeServer, port: int) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stopping.set)
    await server.start("127.0.0.1", port)
    logger.info("realtime listening", extra={"event": "realtime.listening", "port": server.port})
    await stopping.wait()
    await server.stop()
    logger.info("realtime stopped", extra={"event": "realtime.stopped"})


if __name__ == "__main__":
    sys.exit(main(os.environ))
