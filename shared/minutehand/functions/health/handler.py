"""The AWS Lambda handler of the `health` function. AWS Lambda loads the module by its name."""

from minutehand.functions.health.app import build_app
from minutehand.functions.on_lambda import on_lambda

handler = on_lambda(build_app)
