"""Serves the console on the origin of the local API: files, configuration and apps' pages."""

from collections.abc import Iterable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route

from minutehand.app import App, find_apps
from minutehand.config import Settings
from minutehand.console import console_folder
from minutehand.local.users import DEMO_USERS, PASSWORD
from minutehand.web.site import ConsoleFiles, config_route, security_headers


def console_routes(settings: Settings) -> list[BaseRoute]:
    """Create the routes of the console, which CloudFront serves in a deployment.

    If the installed wheel does not contain the console, because pip built the wheel, for example
    from a git address, return no routes.
    """
    headers = security_headers(settings)
    folder = console_folder()
    if not folder.is_dir():
        return []
    return [
        config_route(settings, demoAccounts=_demo_sign_ins(settings)),
        *_pages_of_apps(find_apps(settings.apps), headers),
        Mount("/", app=ConsoleFiles(folder, headers)),
    ]


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


def _pages_of_apps(apps: Iterable[App], headers: Mapping[str, str]) -> list[BaseRoute]:
    """Return routes for each app's pages below /apps/<name>, and for the apps' manifests."""
    with_pages = [app for app in apps if app.manifest]

    async def list_manifests(_: Request) -> JSONResponse:
        return JSONResponse([app.manifest for app in with_pages], headers=dict(headers))

    pages = [
        Mount(f"/apps/{app.name}", app=ConsoleFiles(app.folder / "console", headers))
        for app in with_pages
    ]
    return [Route("/apps/index.json", list_manifests), *pages]
