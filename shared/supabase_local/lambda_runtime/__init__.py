"""Lambda on this machine: AWS's own runtime client in real processes, driven as Lambda drives it.

What is true here: init, one invocation at a time per environment, reuse, freezing between
invocations, the kill at the deadline, concurrency caps, asynchronous retries and destinations,
HTTP API v2 events. What is not: CPU and memory limits, network isolation, IAM.
"""

from supabase_local.lambda_runtime.function import Function, FunctionConfig, TooManyRequests
from supabase_local.lambda_runtime.invocation import Invocation, Outcome
from supabase_local.lambda_runtime.server import LambdaRuntime

__all__ = [
    "Function",
    "FunctionConfig",
    "Invocation",
    "LambdaRuntime",
    "Outcome",
    "TooManyRequests",
]
