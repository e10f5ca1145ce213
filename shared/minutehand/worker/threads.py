"""Runs synchronous processors in daemon threads, and stops them as far as Python permits.

A thread cannot be killed. To stop a thread, an exception is raised at its next Python instruction.
A function in C continues until it returns. If the job's lease expires before the function returns,
the processor's result is not stored.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from minutehand.worker.current_job import JOB_ID, run_recorded

#: Name of a thread while it runs no call.
IDLE = "processors"


class ThreadStopped(BaseException):
    """Raised inside the thread of a synchronous processor that must stop.

    A processor that catches this exception must return soon.
    """


class _Call:
    """A call of a synchronous processor, and the future of its result."""

    def __init__(self, run: Callable[[], Any], name: str) -> None:
        self.name = name
        self.is_stopped = False
        self._run = partial(run_recorded, JOB_ID.get(), run)
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[tuple[Any, BaseException | None]] = self._loop.create_future()

    def run(self) -> Any:
        """Run the processor with the context variables of the code that called it."""
        return self._context.run(self._run)

    def set_result(self, result: Any, error: BaseException | None) -> None:
        """Send the result or error of the call from the call's thread to the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._set_result, result, error)
        except RuntimeError:
            return  # the loop is closed, so no code waits for the result

    def _set_result(self, result: Any, error: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result((result, error))


class _Thread:
    """Thread that runs calls one after another, until one of its calls is stopped."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._lock = threading.Lock()
        #: The call whose processor runs now, and in which `ThreadStopped` may be raised.
        self._running: _Call | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def begin(self, call: _Call) -> None:
        """Run a call in this thread. The thread gets the name of the call."""
        self._calls.put(call)

    def stop(self, call: _Call) -> None:
        """Raise `ThreadStopped` in a call, unless the call has ended."""
        with self._lock:
            call.is_stopped = True
            if self._running is call:
                import ctypes  # import late, because few calls are stopped

                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(ThreadStopped)
                )

    def _work(self) -> None:
        is_last = False
        while not is_last:
            call = self._calls.get()
            self._thread.name = call.name
            result, error = self._run(call)
            self._thread.name = IDLE  # `running_frames` finds a thread by its name
            is_last = call.is_stopped
            if not is_last:
                _idle.append(self)  # first, because a result may start the next call
            call.set_result(result, error)
            del call, result, error  # free the call and its result while the thread waits

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


#: Threads that run no call now. There are as many threads as calls ever ran at the same time.
_idle: list[_Thread] = []


async def run_in_thread(run: Callable[[], Any], *, name: str) -> Any:
    """Call `run` in a daemon thread, with the caller's context variables, and await its end.

    Concurrent calls do not share a thread, so that a stuck call does not block another slot or the
    exit of the process. A cancellation raises `ThreadStopped` in the thread, and waits until the
    call has ended. A second cancellation ends the wait.
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
