"""Names in paths: one that has a slash in it is one segment all the same, sent as %2F."""

from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

SLASH: Final = "\ue000"
"""Stands for a slash within a segment: no name has it, for names are printable."""


class WholeSegments:
    """Gives routing a path in which %2F divides nothing: `name_of` makes a slash of it again.

    Parameters
    ----------
    app : ASGI app
        Whose routes have names in them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        raw: bytes = scope.get("raw_path") or b""
        if scope["type"] == "http" and b"%2f" in raw.lower():
            segments = raw.decode("latin-1").split("/")
            path = "/".join(unquote(segment).replace("/", SLASH) for segment in segments)
            scope = {**scope, "path": path}
        await self._app(scope, receive, send)


def name_of(segment: str) -> str:
    """Return the name that a segment of a path, as routing gives it, stands for."""
    return segment.replace(SLASH, "/")
