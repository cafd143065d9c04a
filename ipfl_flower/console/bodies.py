"""A limit on what requests may carry: the console takes nothing longer than a token."""

from typing import Final

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_BYTES_MAX: Final = 4096


class BodyLimit:
    """Answers 413 once more than `BODY_BYTES_MAX` bytes of a body have come, chunked or not.

    Parameters
    ----------
    app : ASGI app
        Gets the bodies that fit, whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > BODY_BYTES_MAX:
                said = f"a request's body has at most {BODY_BYTES_MAX} bytes"
                await JSONResponse({"detail": said}, 413)(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, again, send)
