"""The live page: static files, served unchanged.

There is no build step and no templating, so data from games never becomes part of a page here; the
page's scripts request it from the API, and insert it as text.
"""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["routes"]

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
_FOLDER = resources.files(__package__.rpartition(".")[0]) / "static"


def _route(path: str, name: str) -> Route:
    body = (_FOLDER / name).read_bytes()
    media_type = _MEDIA_TYPES[name[name.rindex(".") :]]

    async def serve(_: Request) -> Response:
        return Response(body, media_type=media_type)

    return Route(path, serve)


def _names() -> list[str]:
    """Return the paths of the scripts and styles: ``app.js``, ``views/overview.js``."""
    entries = [("", _FOLDER), ("views/", _FOLDER / "views")]
    names = [prefix + entry.name for prefix, folder in entries for entry in folder.iterdir()]
    return sorted(name for name in names if name.endswith((".css", ".js")))


routes = [_route("/", "index.html"), *(_route(f"/static/{name}", name) for name in _names())]
"""The page at ``/``, and the styles and scripts that it loads."""
