"""Plain processors in threads of their own, stopped as far as Python allows.

A thread cannot be killed: it is sent an exception, which arrives at its next Python instruction.
One that stays in C code continues until it returns; its lease has expired by then, so nothing it
sends is stored.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from typing import Any


class ThreadStopped(BaseException):
    """Raised inside a plain processor that must stop; do not catch it for long."""


async def run_in_thread(call: Callable[[], Any], *, name: str) -> Any:
    """Run `call` in a new daemon thread, with this context's variables, and await its end.

    A daemon, and not of a pool: a stuck one blocks neither a slot nor the exit of the process.
    Cancelling sends `ThreadStopped` into the thread and waits until it has ended; cancelling
    again stops waiting.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def post(result: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((result, error))

    def target() -> None:
        result: Any = None
        error: BaseException | None = None
        try:
            result = context.run(call)
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(post, result, error)
        except RuntimeError:
            return  # the loop is closed: no one waits any more

    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    try:
        result, error = await asyncio.shield(ended)
    except asyncio.CancelledError:
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(ThreadStopped)
            )
        result, error = await asyncio.shield(ended)
        if isinstance(error, ThreadStopped):
            raise
    if error is not None:
        raise error
    return result
