"""Who is let in to the console, and what an institution does not see."""

import pytest
from fastapi.testclient import TestClient
from support import console_clients as clients
from support.console_clients import ALDER, OPERATOR

from ipfl_flower.console import api as api_module
from ipfl_flower.console.access import LOGIN_S, LOGINS_MAX, Gate, Viewer, digest_of
from ipfl_flower.console.app import make_app
from ipfl_flower.console.bodies import BODY_BYTES_MAX
from ipfl_flower.console.follower import Follower
from ipfl_flower.ledger import Ledger

file, app, nobody = clients.file, clients.app, clients.nobody
operator, alder = clients.operator, clients.alder

PLACES = [
    "status",
    "rounds",
    "rounds/1",
    "rounds/1/market",
    "rounds/1/market/alder/cedar",
    "money",
    "accounts.csv",
    "accounts/alder/statement",
    "accounts/alder/statement.csv",
    "learning",
]


# --- who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_without_a_token_nothing_is_told(nobody, place):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic wrong"}):
        answer = nobody.get(f"/api/v1/{place}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json() == {"detail": "log in with a token"}


@pytest.mark.parametrize("place", PLACES)
def test_the_operator_is_told_everything(operator, place):
    answer = operator.get(f"/api/v1/{place}")
    assert answer.status_code == 200
    assert answer.content


def test_prometheus_is_told_with_the_operators_token(operator):
    told = operator.get("/metrics")
    assert told.status_code == 200
    assert "\nipfl_rounds_total{" in told.text


def test_an_institution_is_not_told_what_prometheus_is(alder):
    assert alder.get("/metrics").status_code == 403


def test_a_login_is_a_cookie_that_scripts_and_other_sites_do_not_get(nobody):
    assert nobody.get("/api/v1/session").json()["role"] == "nobody"
    assert nobody.post("/api/v1/login", json={"token": "wrong"}).status_code == 401
    assert not nobody.cookies
    answer = nobody.post("/api/v1/login", json={"token": ALDER})
    assert answer.json() == {"role": "institution", "name": "alder", "tokens": True}
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert f"Max-Age={LOGIN_S}" in cookie
    assert "Secure" not in cookie
    assert ALDER not in cookie
    assert nobody.get("/api/v1/session").json()["name"] == "alder"
    secret = nobody.cookies["ipfl-console"]
    assert nobody.post("/api/v1/logout").status_code == 204
    assert not nobody.cookies
    nobody.cookies.set("ipfl-console", secret)
    assert nobody.get("/api/v1/status").status_code == 401


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"token": 1}', b'{"token": ""}', b'{"token": "\\ud800x"}']
)
def test_a_login_that_makes_no_sense_is_refused_without_an_echo(nobody, body):
    headers = {"Content-Type": "application/json"}
    answer = nobody.post("/api/v1/login", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert "ud800" not in answer.text
    assert isinstance(answer.json()["detail"], str)


def test_over_tls_the_cookie_is_for_tls_alone(app):
    with TestClient(app, base_url="https://market.example") as client:
        answer = client.post("/api/v1/login", json={"token": OPERATOR})
    assert "Secure" in answer.headers["set-cookie"]


def test_a_login_ends(monkeypatch):
    gate, now = Gate([digest_of(OPERATOR)]), [0.0]
    monkeypatch.setattr("ipfl_flower.console.access.time.monotonic", lambda: now[0])
    secret = gate.log_in(Viewer("alder"))
    now[0] = LOGIN_S - 1.0
    assert gate.logged_in(secret) == Viewer("alder")
    now[0] = LOGIN_S + 1.0
    assert gate.logged_in(secret) is None


def test_who_logs_in_again_and_again_ends_its_own_logins_alone():
    gate = Gate([digest_of(OPERATOR)])
    others = gate.log_in(Viewer("birch"))
    own = [gate.log_in(Viewer("alder")) for _ in range(LOGINS_MAX + 2)]
    assert [gate.logged_in(secret) for secret in own[:2]] == [None, None]
    assert {gate.logged_in(secret) for secret in own[2:]} == {Viewer("alder")}
    assert gate.logged_in(others) == Viewer("birch")


def test_a_body_that_is_no_token_is_not_read(nobody):
    whole = b" " * (BODY_BYTES_MAX + 1)

    def in_chunks():
        for _ in range(5):
            yield whole[:1000]

    headers = {"Content-Type": "application/json"}
    for body in (whole, in_chunks()):
        answer = nobody.post("/api/v1/login", content=body, headers=headers)
        assert (answer.status_code, "4096 bytes" in answer.json()["detail"]) == (413, True)
    fits = whole[: BODY_BYTES_MAX - 40] + b'{"token": "wrong"}'
    assert nobody.post("/api/v1/login", content=fits, headers=headers).status_code == 401


def test_without_any_token_the_console_answers_to_this_machines_names_alone(file):
    with Ledger.open(file, create=False) as ledger:
        follower = Follower(ledger, str(file), verify=False)
        app = make_app(Gate(), follower)
        with TestClient(app, base_url="http://localhost:8080") as client:
            assert client.get("/api/v1/session").json()["role"] == "operator"
            assert client.get("/api/v1/status").status_code == 200
            for name in ("rebound.example", "localhost.rebound.example", "10.0.0.1", "[", "::1"):
                answer = client.get("/api/v1/status", headers={"Host": name})
                assert (answer.status_code, "rounds" in answer.text) == (421, False)


# --- what an institution does not see -------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "accounts/birch/statement",
        "accounts/birch/statement.csv",
        "rounds/1/market/birch/elm",
        "rounds/1/market/elm/birch",
        "rounds/1/market/alder/hazel",
        "rounds/1/market/alder/nobody",
        "rounds/5/market/alder/birch",
        "rounds/5/market/alder/nobody",
        "accounts/nobody/statement",
    ],
)
def test_what_is_anothers_is_as_if_it_were_not_there(alder, place):
    answer = alder.get(f"/api/v1/{place}")
    assert answer.status_code == 404
    assert answer.json() == {"detail": "there is none, or it is not yours to see"}


def test_an_institution_sees_its_own_lines_everywhere(alder, file):
    with Ledger.open(file, create=False) as ledger:
        balance = ledger.balances()["alder"]
    money = alder.get("/api/v1/money").json()
    assert [(item["name"], item["balance"]) for item in money["accounts"]] == [("alder", balance)]
    assert money["total"] is None
    assert [item["name"] for item in money["utilities"]] == ["alder"]
    learning = alder.get("/api/v1/learning").json()["institutions"]
    assert [item["name"] for item in learning] == ["alder"]
    assert alder.get("/api/v1/accounts.csv").text.count("\r\n") == 2
    edges = alder.get("/api/v1/rounds/0/market").json()["edges"]
    assert edges
    assert all("alder" in (edge["buyer"], edge["seller"]) for edge in edges)
    status = alder.get("/api/v1/status").json()
    assert (status["institutions"], status["now"]["waiting"]) == (["alder"], [])
    assert (status["expelled"], status["last_event"], status["server"]) == ({}, None, None)


def test_a_refusal_keeps_no_earlier_request(alder):
    for _ in range(2):
        alder.get("/api/v1/accounts/birch/statement")
    first, second = api_module._hidden(), api_module._hidden()
    assert first is not second
    assert first.__traceback__ is None


def test_answers_that_are_kept_are_not_given_to_another(nobody):
    for token, count in ((OPERATOR, 9), (ALDER, 1), (OPERATOR, 9)):
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(2):
            accounts = nobody.get("/api/v1/money", headers=headers).json()["accounts"]
            assert len(accounts) == count
