"""The typed client of the queue's SQL functions, over the Data API or a connection to Postgres."""

from typing import TYPE_CHECKING

from minutehand.exports import lazy_exports

if TYPE_CHECKING:
    from minutehand.queue import outbound_http as outbound_http
    from minutehand.queue.dependencies import Dependencies as Dependencies
    from minutehand.queue.errors import (
        InvalidState as InvalidState,
        ProcessorError as ProcessorError,
        QueueError as QueueError,
    )
    from minutehand.queue.functions import (
        CallerFunctions as CallerFunctions,
        WorkerFunctions as WorkerFunctions,
    )
    from minutehand.queue.models import (
        EnqueueOptions as EnqueueOptions,
        FeedPage as FeedPage,
        Job as Job,
        JobEvent as JobEvent,
        NewJob as NewJob,
    )
    from minutehand.queue.responses import decode_object as decode_object, reading as reading
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "responses": "decode_object reading",
            "dependencies": "Dependencies",
            "errors": "InvalidState ProcessorError QueueError",
            "functions": "CallerFunctions WorkerFunctions",
            "models": "EnqueueOptions FeedPage Job JobEvent NewJob",
        },
    )
