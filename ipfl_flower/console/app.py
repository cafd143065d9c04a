"""The console as an ASGI app: API, page, and the headers that every answer has."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from ipfl_flower.console.access import Gate
from ipfl_flower.console.api import api, plain
from ipfl_flower.console.bodies import BodyLimit
from ipfl_flower.console.desk import Desk
from ipfl_flower.console.follower import Follower
from ipfl_flower.console.segments import WholeSegments
from ipfl_flower.ledger import LedgerError

STATIC: Final = Path(__file__).parent / "static"

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "[::1]"))


def make_app(gate: Gate, follower: Follower, *, any_host: bool = False) -> FastAPI:
    """Make the console.

    Parameters
    ----------
    gate : Gate
        Who is let in.
    follower : Follower
        Started when the app starts, stopped when it ends.
    any_host : bool
        Whether it answers without tokens whatever name it is called by. Otherwise, open, it answers
        to this machine's own names alone: a web page elsewhere could have its name point here.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower.start()
        yield
        follower.stop()

    app = FastAPI(
        title="ipfl console",
        version=_version(),
        description="A market's rounds, graph, money and learning, read from its ledger.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its scripts lie on others' servers
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = Desk(gate, follower)
    app.include_router(api)
    app.include_router(plain)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.exception_handler(LedgerError)
    def unreadable(_: Request, __: Exception) -> Response:
        return JSONResponse({"detail": "the ledger can't be read: see the log"}, 503)

    @app.exception_handler(RequestValidationError)
    def unfit(_: Request, error: Exception) -> Response:
        found = error.errors() if isinstance(error, RequestValidationError) else []
        # Without what was given: that may be a token, or text that is no UTF-8.
        what = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in found]
        text = "; ".join(what).encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"detail": text}, 422)

    app.add_middleware(WholeSegments)
    app.add_middleware(BodyLimit)  # within what sets the headers

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if gate.is_open and not any_host and not is_this_machine(request.headers.get("host", "")):
            response: Response = JSONResponse({"detail": "call it localhost"}, 421)
        else:
            response = await call_next(request)
        for name, value in HEADERS.items():
            response.headers[name] = value
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    return app


def is_this_machine(host: str) -> bool:
    """Tell whether a Host header is one of this machine's own names, with or without a port."""
    return host.rpartition(":")[0] in LOOPBACK or host in LOOPBACK


def _version() -> str:
    try:
        return version("ipfl-flower")
    except PackageNotFoundError:
        return "0"
