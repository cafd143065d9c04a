"""The JSON API under /api/v1: each answer is a view of the book, for who asks."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from fastapi.security import APIKeyCookie, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import AfterValidator, BaseModel

from ipfl_flower.console import shapes
from ipfl_flower.console.access import LOGIN_S, OPERATOR, Viewer
from ipfl_flower.console.book import Book, Page
from ipfl_flower.console.desk import Desk
from ipfl_flower.console.graph import round_graph
from ipfl_flower.console.learning import read_learning
from ipfl_flower.console.money import csv_text, read_money, read_statement
from ipfl_flower.console.rounds import list_rounds, market_status, round_line
from ipfl_flower.console.segments import name_of
from ipfl_flower.console.why import Explainer

COOKIE: Final = "ipfl-console"
POINTS: Final = 240
ROUND_MAX: Final = 2**31
STATEMENT_ROUNDS_MAX: Final = 200

_bearer = HTTPBearer(auto_error=False, description="the operator's or an institution's token")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="what a login gives")


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _known(
    request: Request,
    _token: Annotated[Any, Depends(_bearer)],
    _login: Annotated[str | None, Depends(_cookie)],
) -> Viewer | None:
    gate = _desk(request).gate
    if gate.is_open:
        return OPERATOR
    if _token is not None:
        return gate.viewer_of(_token.credentials)
    return None if _login is None else gate.logged_in(_login)


def _viewer(found: Annotated[Viewer | None, Depends(_known)]) -> Viewer:
    if found is None:
        raise HTTPException(401, "log in with a token", {"WWW-Authenticate": "Bearer"})
    return found


def _operator(viewer: Annotated[Viewer, Depends(_viewer)]) -> Viewer:
    if not viewer.is_operator:
        raise HTTPException(403, "this is for the operator")
    return viewer


TheDesk = Annotated[Desk, Depends(_desk)]
TheViewer = Annotated[Viewer, Depends(_viewer)]
Number = Annotated[int, Path(ge=0, le=ROUND_MAX, description="of a round")]
Name = Annotated[
    str,
    Path(max_length=200, description="of an institution; a / in it as %2F"),
    AfterValidator(name_of),
]
Points = Annotated[int, Query(ge=2, le=2000, description="rounds to show, evenly picked")]

_REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": shapes.Problem, "description": "No token, or a wrong one"},
    404: {"model": shapes.Problem, "description": "There is none, or it is not yours to see"},
    421: {"model": shapes.Problem, "description": "Without tokens it is called localhost alone"},
    422: {"model": shapes.Problem, "description": "An argument makes no sense"},
    503: {"model": shapes.Problem, "description": "The ledger can't be read"},
}
_BODY_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": shapes.Problem, "description": "Not JSON"},
    413: {"model": shapes.Problem, "description": "Longer than any token"},
}
api = APIRouter(prefix="/api/v1", responses=_REFUSALS)
plain = APIRouter()


def _hidden() -> HTTPException:
    """Make the refusal, each time anew: an exception that is kept holds on to all its frames."""
    return HTTPException(404, "there is none, or it is not yours to see")


def _give(
    request: Request, viewer: Viewer, key: tuple[object, ...], make: Callable[[], BaseModel]
) -> Response:
    return _desk(request).answers.give(request, (viewer, *key), make)


@api.get("/session", response_model=shapes.Session, openapi_extra={"security": [{}]})
def session(desk: TheDesk, viewer: Annotated[Viewer | None, Depends(_known)]) -> shapes.Session:
    """Say who asks; nobody is no error."""
    return _session(desk, viewer)


@api.post("/login", response_model=shapes.Session, responses=_BODY_REFUSALS)
def log_in(desk: TheDesk, request: Request, response: Response, given: shapes.Token) -> Any:
    """Log in with a token: a cookie stands for it from then on."""
    viewer = OPERATOR if desk.gate.is_open else desk.gate.viewer_of(given.token)
    if viewer is None:
        raise HTTPException(401, "nobody has that token")
    response.set_cookie(
        COOKIE,
        desk.gate.log_in(viewer),
        max_age=LOGIN_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return _session(desk, viewer)


@api.post("/logout", status_code=204)
def log_out(desk: TheDesk, request: Request) -> Response:
    """Log out; who was not logged in, isn't then, either."""
    login = request.cookies.get(COOKIE)
    if login is not None:
        desk.gate.log_out(login)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _session(desk: Desk, viewer: Viewer | None) -> shapes.Session:
    tokens = not desk.gate.is_open
    if viewer is None:
        return shapes.Session(role="nobody", name=None, tokens=tokens)
    role: Any = "operator" if viewer.is_operator else "institution"
    return shapes.Session(role=role, name=viewer.name, tokens=tokens)


@api.get("/status", response_model=shapes.Status)
def status(desk: TheDesk, viewer: TheViewer, request: Request) -> Response:
    """Say where the market stands; its ETag changes when anything does."""
    book, checked = desk.book, desk.follower.verification
    key = ("status", book.version, checked.at, checked.state)
    return _give(request, viewer, key, lambda: market_status(book, checked, viewer))


@api.get("/rounds", response_model=shapes.Rounds)
def rounds(
    desk: TheDesk,
    viewer: TheViewer,
    request: Request,
    before: Annotated[int | None, Query(ge=0, le=ROUND_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Response:
    """List rounds, the newest first."""
    book = desk.book
    key = ("rounds", book.version, before, limit)
    return _give(request, viewer, key, lambda: list_rounds(book, before, limit, viewer))


@api.get("/rounds/{number}", response_model=shapes.RoundLine)
def one_round(desk: TheDesk, viewer: TheViewer, request: Request, number: Number) -> Response:
    """Tell how a round went."""
    book = desk.book
    page = _page(book, number)
    key = ("round", book.version, number)
    return _give(request, viewer, key, lambda: round_line(book, page, viewer))


@api.get("/rounds/{number}/market", response_model=shapes.Graph)
def market(desk: TheDesk, viewer: TheViewer, request: Request, number: Number) -> Response:
    """Draw the market of a round."""
    book = desk.book
    page = _page(book, number)
    # A gain in accuracy needs the first one: of a newcomer it becomes known later.
    known = int((book.first_accuracies == book.first_accuracies).sum())
    key = ("market", page.history.head, page.state, number, len(book.names), known)
    return _give(
        request, viewer, key, lambda: round_graph(book, page, desk.settlement(page), viewer)
    )


@api.get("/rounds/{number}/market/{buyer}/{seller}", response_model=shapes.Why)
def why(
    desk: TheDesk, viewer: TheViewer, request: Request, number: Number, buyer: Name, seller: Name
) -> Response:
    """Explain why a buyer bought a seller's model in a round, or why not."""
    book = desk.book
    page = _page(book, number)
    if not (viewer.sees(buyer) or viewer.sees(seller)) or not {buyer, seller} <= set(book.ids):
        raise _hidden()
    if buyer == seller:
        raise HTTPException(404, "nobody buys from itself")

    def explain() -> BaseModel:
        settlement = desk.settlement(page)
        if settlement is None:
            # To an institution as if there were no such other: it would tell who is enrolled.
            unsettled = HTTPException(404, f"round {number} is not settled")
            raise unsettled if viewer.is_operator else _hidden()
        found = Explainer(settlement, book.names).explain(book.ids[buyer], book.ids[seller], viewer)
        if found is None:
            raise _hidden()
        return found

    return _give(request, viewer, ("why", page.history.head, number, buyer, seller), explain)


@api.get("/money", response_model=shapes.Money)
def money(desk: TheDesk, viewer: TheViewer, request: Request, points: Points = POINTS) -> Response:
    """Sum up accounts, and utilities over time."""
    book, checked = desk.book, desk.follower.verification
    key = ("money", book.version, checked.at, points)
    return _give(request, viewer, key, lambda: read_money(book, checked, points, viewer))


@api.get("/accounts.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
def accounts_csv(desk: TheDesk, viewer: TheViewer) -> Response:
    """Download all accounts, in micro-credits."""
    found = read_money(desk.book, desk.follower.verification, 2, viewer).accounts
    columns = ("institution", "balance_micro", "paid_micro", "earned_micro", "utility_credits")
    rows = [(item.name, item.balance, item.paid, item.earned, item.utility) for item in found]
    return _csv(csv_text(columns, rows), "accounts.csv")


@api.get("/accounts/{name}/statement", response_model=shapes.Statement)
def statement(
    desk: TheDesk,
    viewer: TheViewer,
    request: Request,
    name: Name,
    first: Annotated[int | None, Query(ge=0, le=ROUND_MAX)] = None,
    last: Annotated[int | None, Query(ge=0, le=ROUND_MAX)] = None,
) -> Response:
    """Show an account's entries: by default of the last ten rounds, at most of 200."""
    book = desk.book
    institution = _institution(book, viewer, name)
    end = len(book.pages) - 1 if last is None else min(last, len(book.pages) - 1)
    begin = max(0, end - 9) if first is None else first
    if end - begin >= STATEMENT_ROUNDS_MAX:
        raise HTTPException(
            422, f"rounds {begin} to {end} are more than {STATEMENT_ROUNDS_MAX}: ask for fewer"
        )
    key = ("statement", book.version, institution, begin, end)
    ledger = desk.follower.ledger
    return _give(
        request, viewer, key, lambda: read_statement(ledger, book, institution, begin, end)
    )


@api.get(
    "/accounts/{name}/statement.csv",
    response_class=Response,
    responses={200: {"content": {"text/csv": {}}}},
)
def statement_csv(desk: TheDesk, viewer: TheViewer, name: Name) -> Response:
    """Download an account's whole statement, in micro-credits."""
    book = desk.book
    institution = _institution(book, viewer, name)
    whole = desk.follower.ledger.statement(name)
    columns = ("round", "counterparty", "direction", "amount_micro", "balance_micro")
    rows = [
        (x.round, x.counterparty, x.direction, x.amount_micro, x.balance_micro) for x in whole.lines
    ]
    return _csv(csv_text(columns, rows), f"statement-{institution}.csv")


@api.get("/learning", response_model=shapes.Learning)
def learning(
    desk: TheDesk, viewer: TheViewer, request: Request, points: Points = POINTS
) -> Response:
    """Show how well the institutions' models do, by what they report."""
    book = desk.book
    key = ("learning", book.version, points)
    return _give(request, viewer, key, lambda: read_learning(book, points, viewer))


@plain.get("/healthz", response_model=shapes.Health, responses={503: {"model": shapes.Health}})
def healthz(desk: TheDesk, response: Response) -> shapes.Health:
    """Say whether the ledger can be read; why not is in the log."""
    if desk.follower.failure is None:
        return shapes.Health(status="ok")
    response.status_code = 503
    return shapes.Health(status="failing", detail="the ledger can't be read")


@plain.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {}}},
        401: _REFUSALS[401],
        403: {"model": shapes.Problem, "description": "Not the operator's token"},
    },
)
def metrics(desk: TheDesk, _: Annotated[Viewer, Depends(_operator)]) -> Response:
    """Show the market to Prometheus."""
    return Response(generate_latest(desk.registry), media_type=CONTENT_TYPE_LATEST)


def _page(book: Book, number: int) -> Page:
    if number >= len(book.pages):
        raise HTTPException(404, f"there is no round {number}")
    return book.pages[number]


def _institution(book: Book, viewer: Viewer, name: str) -> int:
    if name not in book.ids or not viewer.sees(name):
        raise _hidden()
    return book.ids[name]


def _csv(text: str, name: str) -> Response:
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "private, no-store",
    }
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)
