import json
import stat
import subprocess
import sys
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from support import console_market as cm

from ipfl_flower.console import api as api_module
from ipfl_flower.console.access import (
    LOGIN_S,
    LOGINS_MAX,
    ConsoleError,
    Gate,
    Viewer,
    add_token,
    digest_of,
    read_gate,
)
from ipfl_flower.console.app import HEADERS, make_app
from ipfl_flower.console.bodies import BODY_BYTES_MAX
from ipfl_flower.console.follower import Follower
from ipfl_flower.ledger import Ledger, LedgerError

OPERATOR, ALDER = "the-operators-token-" * 2, "the-token-of-alder-" * 2
IPFL = [sys.executable, "-c", "from ipfl_flower.cli.main import app; app()"]
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


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("api") / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger)
    return file


@pytest.fixture(scope="module")
def app(file):
    gate = Gate([digest_of(OPERATOR)], {digest_of(ALDER): "alder"})
    with Ledger.open(file, create=False) as ledger:
        yield make_app(gate, Follower(ledger, str(file), verify=False))


@pytest.fixture
def nobody(app):
    with TestClient(app, base_url="http://market.example") as client:
        yield client


@pytest.fixture
def operator(nobody):
    nobody.headers["Authorization"] = f"Bearer {OPERATOR}"
    return nobody


@pytest.fixture
def alder(nobody):
    nobody.headers["Authorization"] = f"Bearer {ALDER}"
    return nobody


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


# --- what the API says ----------------------------------------------------------------------------


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


# --- tokens and the commands ----------------------------------------------------------------------


def ipfl(*arguments):
    done = subprocess.run([*IPFL, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_token_is_printed_once_and_its_hash_kept(tmp_path):
    file = tmp_path / "tokens"
    code, token, _ = ipfl("console", "token", "alder", "--tokens", file)
    add_token(file, "elm & sons")
    assert code == 0
    assert token.strip() not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "operator").write_text(OPERATOR)
    gate = read_gate(tmp_path / "operator", file)
    assert gate.viewer_of(token.strip()) == Viewer("alder")
    assert gate.viewer_of(OPERATOR).is_operator
    assert gate.viewer_of("é\ud800") is None
    assert not gate.is_open


def test_a_token_is_added_after_a_last_line_that_has_no_end(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"{digest_of(ALDER)}  alder")
    (tmp_path / "operator").write_text(OPERATOR)
    token = add_token(file, "birch")
    gate = read_gate(tmp_path / "operator", file)
    assert (gate.viewer_of(ALDER), gate.viewer_of(token)) == (Viewer("alder"), Viewer("birch"))


@pytest.mark.parametrize(
    ("operator", "tokens", "said"),
    [
        ("short", None, "must hold one token of 32 characters or more"),
        ("two words that are long", None, "must hold one token"),
        ("x" * 32, "alder: secret", "line 1: not a SHA-256, two spaces and a name"),
        (None, f"{'0' * 64}  alder", "give --operator-token-file, too"),
    ],
)
def test_files_of_tokens_that_make_no_sense_are_refused(tmp_path, operator, tokens, said):
    paths = []
    for name, content in (("operator", operator), ("tokens", tokens)):
        paths.append(None if content is None else tmp_path / name)
        if content is not None:
            paths[-1].write_text(content)
    with pytest.raises(ConsoleError, match=said):
        read_gate(*paths)


def test_files_of_tokens_that_can_not_be_read_are_named(tmp_path):
    with pytest.raises(ConsoleError, match="none can't be read: No such file"):
        read_gate(tmp_path / "none", None)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConsoleError, match="binary is not a text file"):
        read_gate(tmp_path / "binary", None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "give --operator-token-file"),
        (["--host", "market.example"], "give --operator-token-file"),
        (["--certificate", "cert.pem"], "--certificate and --key go together"),
        (["--operator-token-file", "/none"], "/none can't be read"),
    ],
)
def test_a_console_that_would_show_everything_to_everybody_does_not_start(file, arguments, said):
    code, _, error = ipfl("console", file, *arguments)
    assert (code, error.count("\n")) == (1, 1)
    assert said in error


def test_the_market_of_a_round_is_printed_in_80_columns(file):
    code, out, _ = ipfl("market", "show", file, "--round", "0")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.startswith("round 0: DELIVERED, 23 purchases, 11.627636 credits")
    code, out, _ = ipfl("market", "show", file, "--json")
    graph = json.loads(out)
    assert (code, graph["round"], len(graph["edges"])) == (0, 4, 6)
    code, out, error = ipfl("market", "show", file, "--round", "6")
    assert (code, out) == (1, "")
    assert error == "ipfl: there is no round 6: the ledger has 6 rounds, from 0\n"


def test_why_a_round_was_abandoned_can_not_speak_to_the_terminal(tmp_path):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.begin(ledger)
        ledger.open_round(0, range(9), 10.0, 2)
        ledger.abandon(0, "stopped\x1b[2J")
    code, out, _ = ipfl("market", "show", file, "--round", "0")
    assert (code, "\x1b" in out, "stopped\\x1b[2J" in out) == (0, False, True)


def test_a_console_that_others_reach_without_tls_says_so(file, tmp_path):
    (tmp_path / "operator").write_text(OPERATOR)
    command = [*IPFL, "console", file, "--host", "0.0.0.0", "--port", "0"]
    command += ["--operator-token-file", tmp_path / "operator"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as console:
        try:
            said = console.stderr.readline()
        finally:
            console.terminate()
    assert said.startswith("WARNING")
    assert "without TLS" in said


def test_status_is_printed_again_when_it_changes(tmp_path):
    file = tmp_path / "ledger.db"
    with Ledger.open(file) as ledger:
        cm.play(ledger, rounds=1)
        command = [*IPFL, "status", file, "--watch", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watch:
            try:
                assert json.loads(watch.stdout.readline())["waiting"] == ["birch"]
                ledger.refuse(1, cm.BIRCH, "it is away")
                assert json.loads(watch.stdout.readline())["failed"] == {"birch": "it is away"}
            finally:
                watch.terminate()
