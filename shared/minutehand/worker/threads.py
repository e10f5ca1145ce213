"""Plain processors in daemon threads, stopped as far as Python allows.

A thread cannot be killed: it is sent an exception, which arrives at its next Python instruction.
One that stays in C code continues until it returns; its lease has expired by then, so nothing it
sends is stored.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

#: What a thread without a call is named.
IDLE: Final = "processors"


class ThreadStopped(BaseException):
    """Raised inside a plain processor that must stop; do not catch it for long."""


class _Call:
    """A call and where its answer goes."""

    def __init__(self, run: Callable[[], Any], name: str) -> None:
        self.name = name
        self.is_stopped = False
        self._run = run
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()

    def run(self) -> Any:
        """Run it with its caller's variables."""
        return self._context.run(self._run)

    def answer(self, result: Any, error: BaseException | None) -> None:
        """Say in its thread what it returned and what it raised."""
        try:
            self._loop.call_soon_threadsafe(self._note, result, error)
        except RuntimeError:
            return  # the loop is closed: no one waits any more

    def _note(self, result: Any, error: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result((result, error))


class _Thread:
    """Runs one call after another, until one is stopped."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        #: The one that `ThreadStopped` may be raised in.
        self._running: _Call | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def begin(self, call: _Call) -> None:
        """Run it; the thread is named as it is."""
        self._calls.put(call)

    def stop(self, call: _Call) -> None:
        """Have it end, unless it has."""
        with self._lock:
            call.is_stopped = True
            if self._running is call:
                import ctypes  # here: few runs stop a thread, and each start would pay for it

                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(ThreadStopped)
                )

    def _work(self) -> None:
        is_last = False
        while not is_last:
            call = self._calls.get()
            self._thread.name = call.name
            result, error = self._run(call)
            self._thread.name = IDLE  # a stack is found by the name of what runs
            is_last = call.is_stopped
            if not is_last:
                _idle.append(self)  # before the answer, which may bring the next call
            call.answer(result, error)
            del call, result, error  # and what they hold, while it waits

    def _run(self, call: _Call) -> tuple[Any, BaseException | None]:
        try:
            try:
                with self._lock:
                    if call.is_stopped:
                        raise ThreadStopped
                    self._running = call
                return call.run(), None
            finally:
                with self._lock:
                    self._running = None
        except BaseException as error:
            return None, error


#: Threads without a call; with the others they are as many as ran at once.
_idle: Final[list[_Thread]] = []


async def run_in_thread(run: Callable[[], Any], *, name: str) -> Any:
    """Call `run` in a daemon thread, with this context's variables, and await its end.

    The thread is no other call's meanwhile: a stuck one blocks neither a slot nor the exit of the
    process. Cancelling sends `ThreadStopped` into it and waits until the call has ended; cancelling
    again stops waiting.
    """
    call = _Call(run, name)
    thread = _idle.pop() if _idle else _Thread()
    thread.begin(call)
    try:
        result, error = await asyncio.shield(call.ended)
    except asyncio.CancelledError:
        thread.stop(call)
        result, error = await asyncio.shield(call.ended)
        if isinstance(error, ThreadStopped):
            raise
    if error is not None:
        raise error
    return result
