"""The error of an install, an upgrade or a removal."""


class InstallError(Exception):
    """An install or upgrade cannot change the project as requested.

    `fix` is the remedy, and `code` a stable error code.
    """

    def __init__(self, message: str, *, code: str, fix: str) -> None:
        super().__init__(message)
        self.code = code
        self.fix = fix
