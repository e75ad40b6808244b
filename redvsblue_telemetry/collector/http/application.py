"""The answers that every server of telemetry has: whether it works, and who may ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ..storing import Storage
from .access import Access, AccessControl, Reason
from .responses import ERROR_HANDLERS

__all__ = ["application", "health_route"]


def health_route(storage: Storage) -> Route:
    """Return the route for those who watch the process."""

    async def answer(_: Request) -> Response:
        if storage.last_error is None:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("events can't be stored\n", 503)

    return Route("/healthz", answer)


def application(
    routes: Sequence[BaseRoute], access: Access, on_refusal: Callable[[Reason], None]
) -> AccessControl:
    """Return the application that serves the routes to those who may use them.

    Args:
        routes: the routes.
        access: the rules for requests.
        on_refusal: called with the reason of each refusal.
    """
    starlette = Starlette(routes=routes, exception_handlers=ERROR_HANDLERS)
    # A redirect's target would be built from the Host and path that the client sent.
    starlette.router.redirect_slashes = False
    return AccessControl(starlette, access, on_refusal)
