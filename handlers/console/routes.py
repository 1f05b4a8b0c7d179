"""The console's routes. Who may is decided by its own session, not by a key in a header."""

from aiohttp import web

from handlers.console import assets, pages
from handlers.console.hub import HUB, Hub, close_hub
from handlers.console.sessions import TRUSTED, Trusted

NAME = "console"
"""What metrics call its requests."""
PATHS = (pages.HOME, pages.LOGIN, pages.LOGOUT, pages.EVENTS, assets.ROUTE)


def add_routes(app: web.Application) -> None:
    app[HUB], app[TRUSTED] = Hub(), Trusted()
    app.on_shutdown.append(close_hub)
    app.router.add_get(pages.HOME, pages.home)
    app.router.add_get(pages.LOGIN, pages.login_form)
    app.router.add_post(pages.LOGIN, pages.login)
    app.router.add_post(pages.LOGOUT, pages.logout)
    app.router.add_get(pages.EVENTS, pages.events, allow_head=False)
    app.router.add_get(assets.ROUTE, assets.asset)
