"""The AWS Lambda handler of the `status` function. AWS Lambda loads the module by its name."""

from minutehand.functions.on_lambda import on_lambda
from minutehand.functions.status.app import build_app

handler = on_lambda(build_app)
