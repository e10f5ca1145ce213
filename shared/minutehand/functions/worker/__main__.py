"""A worker for your own host, which the database wakes every minute and when jobs arrive."""

import os

from minutehand.functions.worker.app import load, run_worker
from minutehand.functions.worker.process import serve_worker

if __name__ == "__main__":
    serve_worker(os.environ, run_worker, load)
