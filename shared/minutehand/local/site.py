"""Serves the console on the origin of the local API: files, configuration and apps' pages."""

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route

from minutehand.app import find_apps
from minutehand.config import Settings
from minutehand.console import console_folder
from minutehand.local.users import DEMO_USERS, PASSWORD
from minutehand.web import site


def console_routes(settings: Settings) -> list[BaseRoute]:
    """Create the routes of the console, which CloudFront serves in a deployment.

    If the installed wheel does not contain the console, because pip built the wheel, for example
    from a git address, return no routes.
    """
    folder, headers = console_folder(), site.security_headers(settings)
    if not folder.is_dir():
        return []
    apps = [app for app in find_apps(settings.apps) if app.manifest]

    async def list_manifests(_: Request) -> JSONResponse:
        return JSONResponse([app.manifest for app in apps], headers=headers)

    return site.console_routes(
        settings,
        folder,
        Route("/apps/index.json", list_manifests),
        *(
            Mount(f"/apps/{app.name}", app=site.ConsoleFiles(app.folder / "console", settings))
            for app in apps
        ),
        demoAccounts=_demo_sign_ins(settings),
    )


def _demo_sign_ins(settings: Settings) -> list[dict[str, str]]:
    """Return the demo accounts that can sign in to the local stack."""
    if settings.stage != "local" or not settings.environ.get("DEMO_EMAIL"):
        return []
    return [
        {
            "email": user.email,
            "password": PASSWORD,
            "label": f"{user.email.partition('@')[0].capitalize()}, {user.role}",
        }
        for user in DEMO_USERS
    ]
