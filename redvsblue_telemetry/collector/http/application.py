"""The answers that every server of telemetry has: whether it works, and who may ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from .access import Access, AccessControl, Reason
from .responses import ERROR_HANDLERS

__all__ = ["Health", "application", "health_route"]


class Health(Protocol):
    """Says whether the service works."""

    @property
    def last_error(self) -> Exception | None:
        """Why it doesn't now; None if it does, as far as is known."""


def health_route(health: Health, trouble: str = "events can't be stored") -> Route:
    """Return the route for those who watch the process.

    Args:
        health: says whether it works.
        trouble: the answer if it doesn't.
    """

    async def answer(_: Request) -> Response:
        if health.last_error is None:
            return PlainTextResponse("ok\n")
        return PlainTextResponse(f"{trouble}\n", 503)

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
