"""`python -m supabase_local.realtime` runs the server until SIGTERM or SIGINT.

Environment variables: DATABASE_URL (of a superuser), PORT (0 for a free port), SUPABASE_JWT_SECRET,
SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY, LOG_LEVEL.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Mapping

import uvloop

from supabase_local.realtime.server import RealtimeServer
from supabase_local.realtime.tokens import Verifier

logger = logging.getLogger("supabase_local.realtime")
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__)


class JsonFormatter(logging.Formatter):
    """Formats a log record as one JSON object with level, message, `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a log line. A value that is not JSON is converted to a string."""
        line = {"level": record.levelname, "message": record.getMessage()}
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


async def serve(environ: Mapping[str, str]) -> None:
    """Run the server until a signal."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stopping.set)
    verifier = Verifier(
        jwt_secret=environ["SUPABASE_JWT_SECRET"],
        publishable_key=environ["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=environ["SUPABASE_SECRET_KEY"],
    )
    server = RealtimeServer(environ["DATABASE_URL"], verifier)
    port = await server.start(int(environ.get("PORT", "0")))
    logger.info("realtime listening", extra={"event": "realtime.listening", "port": port})
    await stopping.wait()
    await server.stop()
    logger.info("realtime stopped", extra={"event": "realtime.stopped"})


if __name__ == "__main__":
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "INFO"), handlers=[handler])
    logging.getLogger("websockets").setLevel(logging.WARNING)
    uvloop.run(serve(os.environ))
