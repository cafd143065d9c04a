"""What the console's API says."""

from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from support import console_clients as clients
from support import console_market as cm

from ipfl_flower.console import api as api_module
from ipfl_flower.console.access import Gate
from ipfl_flower.console.app import HEADERS, make_app
from ipfl_flower.console.follower import Follower
from ipfl_flower.ledger import Ledger, LedgerError

file, app = clients.file, clients.app
nobody, operator = clients.nobody, clients.operator


def test_money_is_integers(operator, file):
    with Ledger.open(file, create=False) as ledger:
        statement = ledger.statement("alder")
    told = operator.get("/api/v1/accounts/alder/statement?first=0").json()
    assert [(x["amount"], x["balance"]) for x in told["lines"]] == [
        (line.amount_micro, line.balance_micro) for line in statement.lines
    ]
    assert told["closing"] == statement.balance
    assert isinstance(told["closing"], int)
    csv = operator.get("/api/v1/accounts/alder/statement.csv")
    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in csv.headers["content-disposition"]
    last = csv.text.splitlines()[-1].split(",")
    assert int(last[-1]) == statement.balance


def test_a_statement_of_too_many_rounds_is_refused(operator, monkeypatch):
    monkeypatch.setattr(api_module, "STATEMENT_ROUNDS_MAX", 3)
    place = "/api/v1/accounts/alder/statement"
    assert operator.get(f"{place}?first=3").status_code == 200
    answer = operator.get(f"{place}?first=2")
    assert (answer.status_code, answer.json()["detail"]) == (
        422,
        "rounds 2 to 5 are more than 3: ask for fewer",
    )
    assert operator.get(f"{place}.csv").status_code == 200


def test_a_purchase_is_explained(operator):
    found = operator.get("/api/v1/rounds/1/market/alder/cedar").json()
    assert (found["bought"], found["reason"]) == (True, "bought")
    assert found["paid"] == int(cm.settlement(1).clearing.transfers[cm.ALDER, cm.CEDAR])
    endless = operator.get("/api/v1/rounds/1/market/alder/fir").json()
    assert (endless["reason"], endless["cost"]) == ("seller_not_selling", None)


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("rounds/99", 404),
        ("rounds/99/market", 404),
        ("rounds/2/market/alder/birch", 404),
        ("rounds/1/market/alder/alder", 404),
        ("rounds/-1", 422),
        ("rounds/x", 422),
        ("rounds?limit=0", 422),
        ("money?points=1", 422),
        ("nothing", 404),
    ],
)
def test_what_is_not_there_is_said_in_json(operator, place, status):
    answer = operator.get(f"/api/v1/{place}")
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_who_has_an_answer_is_told_that_it_still_holds(operator):
    first = operator.get("/api/v1/status")
    again = operator.get("/api/v1/status", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "no-cache" in first.headers["cache-control"]
    assert "private" in first.headers["cache-control"]


def test_every_answer_has_the_security_headers(nobody):
    for place in ("/", "/static/main.js", "/healthz", "/api/v1/status", "/nothing"):
        answer = nobody.get(place)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_the_page_is_served_by_the_console_alone(nobody):
    page = nobody.get("/").text
    assert "//" not in page.replace("<!doctype", "")
    for name in ("main.js", "console.css", "icon.svg", "market.js"):
        assert nobody.get(f"/static/{name}").status_code == 200
    assert nobody.get("/static/../access.py").status_code == 404
    assert nobody.get("/docs").status_code == 404


def test_the_api_describes_itself(nobody):
    described = nobody.get("/api/v1/openapi.json").json()
    assert described["openapi"].startswith("3.")
    paths = set(described["paths"])
    assert {"/api/v1/status", "/api/v1/rounds/{number}/market", "/healthz"} <= paths
    assert described["components"]["schemas"]["Edge"]["properties"]["price"]["type"] == "integer"
    assert {"HTTPBearer", "APIKeyCookie"} == set(described["components"]["securitySchemes"])


def test_a_ledger_that_can_not_be_read_is_said_without_its_address(file):
    with Ledger.open(file, create=False) as ledger:
        follower = Follower(ledger, str(file), verify=False)
        with TestClient(make_app(Gate(), follower), base_url="http://localhost") as client:
            assert client.get("/healthz").json()["status"] == "ok"
            ledger.close()
            follower.failure = "disk I/O error"
            answer = client.get("/api/v1/rounds/4/market")
            assert answer.status_code == 503
            assert str(file) not in answer.text
            health = client.get("/healthz")
            assert (health.status_code, "disk" in health.text) == (503, False)


def test_a_console_of_no_ledger_does_not_start(tmp_path):
    with pytest.raises(LedgerError, match="no ledger at"):
        Ledger.open(tmp_path / "none.db", create=False)


@pytest.fixture(scope="module")
def slashed(tmp_path_factory):
    """Give the console of a market of institutions with names that divide a path."""
    file = tmp_path_factory.mktemp("slashed") / "ledger.db"
    with pytest.MonkeyPatch.context() as patch, Ledger.open(file) as ledger:
        patch.setattr(cm, "NAMES", ("a/b", "100% c/d?", "e//f", *cm.NAMES[3:]))
        cm.play(ledger, rounds=2)
    with Ledger.open(file, create=False) as ledger:
        app = make_app(Gate(), Follower(ledger, str(file), verify=False))
        with TestClient(app, base_url="http://localhost") as client:
            yield client


def test_a_name_may_have_a_slash(slashed):
    edges = slashed.get("/api/v1/rounds/0/market").json()["edges"]
    edge = next(edge for edge in edges if "/" in edge["buyer"] and "/" in edge["seller"])
    buyer, seller = (quote(edge[role], safe="") for role in ("buyer", "seller"))
    why = slashed.get(f"/api/v1/rounds/0/market/{buyer}/{seller}").json()
    assert (why["buyer"], why["seller"], why["bought"]) == (edge["buyer"], edge["seller"], True)
    for end in ("", ".csv"):
        assert slashed.get(f"/api/v1/accounts/{buyer}/statement{end}").status_code == 200
    assert slashed.get(f"/api/v1/accounts/{edge['buyer']}/statement").status_code == 404
    assert slashed.get("/static/..%2fapi.py").status_code == 404
