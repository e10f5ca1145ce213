"""The version, which the wheel, the npm archive, migrations and worker runs contain."""

VERSION = "0.5.12"
