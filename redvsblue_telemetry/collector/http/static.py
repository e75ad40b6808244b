"""The live page: static files, joined into one script and one style sheet.

There is no build step and no templating, so data from games never becomes part of a page here; the
page's scripts request it from the API, and insert it as text.
"""

from __future__ import annotations

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .joining import join

__all__ = ["MODULES", "routes"]

_HTML = "text/html; charset=utf-8"
_CSS = "text/css; charset=utf-8"
_JS = "text/javascript; charset=utf-8"
_FOLDER = resources.files(__package__.rpartition(".")[0]) / "static"
_STYLES = ("palette.css", "app.css", "views.css")  # a later one overrides those before
_MAIN = "app.js"


def _route(path: str, text: str, media_type: str) -> Route:
    body = text.encode()

    async def serve(_: Request) -> Response:
        return Response(body, media_type=media_type)

    return Route(path, serve)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text("utf-8")


def _modules() -> dict[str, str]:
    """Return the scripts by their paths: ``app.js``, ``views/overview.js``."""
    entries = [("", _FOLDER), ("views/", _FOLDER / "views")]
    names = [prefix + entry.name for prefix, folder in entries for entry in folder.iterdir()]
    return {name: _read(name) for name in sorted(names) if name.endswith(".js")}


MODULES = _modules()
"""The text of each of the page's modules."""

routes = [
    _route("/", _read("index.html"), _HTML),
    _route("/static/app.js", join(MODULES, _MAIN), _JS),
    _route("/static/app.css", "".join(map(_read, _STYLES)), _CSS),
]
"""The page at ``/``, and the script and the style sheet that it loads."""
