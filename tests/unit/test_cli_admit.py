"""The operator's side of joining, against a ledger and a made-up register of a SuperLink."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from support.joining import FakeRegister, make_kit
from typer.testing import CliRunner

from ipfl_flower.cli import issuing
from ipfl_flower.cli.admit import (
    check_fingerprint,
    operator_key,
    read_authority,
    register,
    terms,
)
from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.certs import issue, make_authority, make_server_certificates
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.flower import RegisteredNode
from ipfl_flower.cli.issuing import issue_kit
from ipfl_flower.cli.main import cli
from ipfl_flower.cli.node_keys import fingerprint, flower_bytes, load_or_make_node_key
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.request import JoinRequest
from ipfl_flower.ledger import EnrolmentError, Ledger
from ipfl_flower.notary import OPERATOR_KEY
from ipfl_flower.receipts import public_hex
from ipfl_flower.settings import Settings


@pytest.fixture
def settings(tmp_path):
    paths = {"ledger": "ledger.db", "models-dir": "models", "initial-model": "theta0.npz"}
    return Settings.read({name: str(tmp_path / path) for name, path in paths.items()})


@pytest.fixture
def ledger(settings):
    with Ledger.open(settings.ledger) as ledger:
        yield ledger


@pytest.fixture
def flower():
    return FakeRegister()


def ask(folder, name="alder"):
    key, _ = load_or_make_node_key(folder)
    return JoinRequest.signed(name, key)


def test_the_ledger_and_flower_name_a_key_by_the_same_bytes(tmp_path):
    key = ask(tmp_path).key()
    assert flower_bytes(key) == public_key_to_bytes(key)


def test_an_account_is_opened_and_the_key_registered(tmp_path, ledger, flower):
    asked = ask(tmp_path / "alder")
    register(asked, ledger, flower, 1000)
    (account,) = ledger.institutions()
    (node,) = flower.nodes()
    assert (account.name, account.samples_cap) == ("alder", 1000)
    assert account.public_key == node.public_key == flower_bytes(asked.key())
    assert node.name == "alder"
    assert [event.kind for event in ledger.events()] == ["admitted"]


def test_admitting_again_changes_nothing(tmp_path, ledger, flower):
    for _ in range(2):
        register(ask(tmp_path / "alder"), ledger, flower, 1000)
    assert len(flower.nodes()) == len(ledger.institutions()) == len(ledger.events()) == 1


def test_a_new_name_needs_the_fingerprint_that_was_read_out(tmp_path, ledger, flower):
    asked = ask(tmp_path / "alder")
    found = fingerprint(asked.key())
    with pytest.raises(KitError, match="telephone the institution") as refused:
        check_fingerprint(asked, ledger, None)
    assert found in str(refused.value)
    with pytest.raises(KitError, match="not the institution's request"):
        check_fingerprint(asked, ledger, "SHA256:x")
    check_fingerprint(asked, ledger, f"{found}\n")
    register(asked, ledger, flower, 1000)
    check_fingerprint(asked, ledger, None)
    with pytest.raises(KitError, match="not the institution's request"):
        check_fingerprint(asked, ledger, "SHA256:x")


def test_samples_max_may_not_change_between_two_admissions(tmp_path, ledger, flower):
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    for name in ("alder", "birch"):
        with pytest.raises(KitError, match="samples-max is 500, and alder was admitted with 1000"):
            register(ask(tmp_path / name, name), ledger, flower, 500)
    assert len(flower.nodes()) == len(ledger.institutions()) == 1


def test_what_was_interrupted_is_finished(tmp_path, ledger, flower):
    asked = ask(tmp_path / "alder")
    ledger.enrol("alder", flower_bytes(asked.key()), samples_cap=1000)
    register(asked, ledger, flower, 1000)
    assert len(flower.nodes()) == len(ledger.institutions()) == 1


@pytest.mark.parametrize("known", ["to both", "to the ledger", "to the SuperLink"])
def test_a_stolen_name_is_refused_with_both_fingerprints(tmp_path, ledger, flower, known):
    owner, thief = ask(tmp_path / "alder"), ask(tmp_path / "thief")
    if known == "to the SuperLink":
        flower.known.append(RegisteredNode(7, "alder", "online", flower_bytes(owner.key())))
    else:
        register(owner, ledger, flower, 1000)
    if known == "to the ledger":
        flower.known.clear()
    before = flower.nodes(), ledger.institutions()
    with pytest.raises(KitError) as refused:
        register(thief, ledger, flower, 1000)
    for request in (owner, thief):
        assert fingerprint(request.key()) in str(refused.value)
    assert (flower.nodes(), ledger.institutions()) == before
    assert ledger.events()[-1].kind == "not admitted"


def test_the_ledger_does_not_enrol_a_thief_that_connects_all_the_same(tmp_path, ledger, flower):
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    with pytest.raises(EnrolmentError, match="belongs to an institution with another public key"):
        ledger.enrol("alder", flower_bytes(ask(tmp_path / "thief").key()))


def test_a_key_has_one_name(tmp_path, ledger, flower):
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    with pytest.raises(KitError, match="belongs to 'alder', not 'oak'"):
        register(ask(tmp_path / "alder", "oak"), ledger, flower, 1000)


def test_a_key_that_was_unregistered_comes_back_under_another_name(tmp_path, ledger, flower):
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    ledger.expel("alder")
    flower.unregister(flower.nodes()[0].node)
    with pytest.raises(KitError, match="takes no key twice"):
        register(ask(tmp_path / "alder"), ledger, flower, 1000)
    assert ledger.expelled() == {0: ""}
    register(ask(tmp_path / "again", "alder-2"), ledger, flower, 1000)
    assert ledger.expelled() == {0: ""}


def test_who_was_expelled_is_admitted_again_where_the_superlink_takes_the_key(
    tmp_path, ledger, flower
):
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    ledger.expel("alder")
    flower.known.clear()  # a new SuperLink
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    assert ledger.expelled() == {}


def write_market(folder, settings):
    names = ("ledger", "models-dir", "initial-model")
    paths = {name: str(getattr(settings, name.replace("-", "_"))) for name in names}
    (folder / "market.toml").write_text(to_toml(paths))
    return folder / "market.toml"


@pytest.mark.parametrize("reason", ["two\nlines", "\x1b[2J", "\r"])
def test_a_reason_cannot_write_on_the_terminal(tmp_path, settings, ledger, flower, reason):
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    market = write_market(tmp_path, settings)
    command = ["expel", "alder", "--market", str(market), "--reason", reason]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, KitError)
    assert "give one plain line" in str(done.exception)
    assert ledger.expelled() == {}


def test_a_superlink_that_cannot_be_asked_is_not_said_to_know_the_key(
    tmp_path, settings, ledger, flower, monkeypatch
):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    register(ask(tmp_path / "alder"), ledger, flower, 1000)
    market = write_market(tmp_path, settings)
    command = ["expel", "alder", "--market", str(market), "--superlink", "elm"]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, LaunchError)
    assert "the SuperLink 'elm' could not be asked to forget the key of alder" in str(
        done.exception
    )


# --- issuing kits ---------------------------------------------------------------------------------


def hand_out(tmp_path, ledger, key, **fields):
    made = make_kit(tmp_path / "alder", key).model_dump()
    for name in ("issued", "signature", "operator_key", "ca"):
        del made[name]
    return issue_kit(ledger, key, **{**made, "ca": "PEM", **fields})


def test_the_same_content_gives_the_same_kit_at_any_time(tmp_path, ledger, monkeypatch):
    key = Ed25519PrivateKey.generate()
    first = hand_out(tmp_path, ledger, key)
    later = datetime.now(UTC) + timedelta(days=1)
    monkeypatch.setattr(issuing, "datetime", clock(later))
    assert hand_out(tmp_path, ledger, key) == first
    assert [event.kind for event in ledger.events()] == ["kit"]


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_each_new_content_has_a_later_time_whatever_the_clock_says(
    tmp_path, ledger, monkeypatch, hours
):
    key = Ed25519PrivateKey.generate()
    kits = [hand_out(tmp_path, ledger, key)]
    monkeypatch.setattr(issuing, "datetime", clock(kits[0].issued + timedelta(hours=hours)))
    changes = ({"fleet": "b.example:1"}, {"terms": {"eta": 2}}, {})
    kits += [hand_out(tmp_path, ledger, key, **change) for change in changes]
    times = [kit.issued for kit in kits]
    assert times == sorted(set(times))
    other = hand_out(tmp_path, ledger, key, name="birch", fleet="c.example:1")
    assert hand_out(tmp_path, ledger, key) == kits[-1]
    assert hand_out(tmp_path, ledger, key, name="birch", fleet="c.example:1") == other


def clock(now):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return now.astimezone(tz)

    return Clock


# --- what a kit says ------------------------------------------------------------------------------


def test_the_key_is_made_before_the_market_begins_and_never_after(settings, ledger):
    made = operator_key(ledger, settings)
    public = public_hex(made.public_key())
    ledger.begin({**settings.contract(), OPERATOR_KEY: public})
    assert public_hex(operator_key(ledger, settings).public_key()) == public
    settings.receipt_key_file.unlink()
    with pytest.raises(KitError, match="is missing: restore it"):
        operator_key(ledger, settings)
    assert not settings.receipt_key_file.exists()


def test_another_key_than_the_markets_is_refused(settings, ledger):
    ledger.begin({**settings.contract(), OPERATOR_KEY: "00" * 32})
    with Ledger.open(settings.ledger.replace("ledger", "other")) as other:
        operator_key(other, settings)
    with pytest.raises(KitError, match="is not the key that this market began with"):
        operator_key(ledger, settings)


def test_other_terms_than_the_markets_are_refused(settings, ledger):
    ledger.begin({**settings.contract(), "distance-weight": 4.0, OPERATOR_KEY: "00" * 32})
    with pytest.raises(KitError, match=r"distance-weight is 5\.0 .* and 4\.0 in the market"):
        operator_key(ledger, settings)


@pytest.mark.parametrize(("began", "now"), [("initial", "mean"), ("mean", "initial")])
def test_another_reference_than_the_markets_is_refused(settings, ledger, began, now):
    """The contract names only one of the two."""
    first, then = (settings.model_copy(update={"reference": name}) for name in (began, now))
    key = public_hex(operator_key(ledger, first).public_key())
    ledger.begin({**first.contract(), OPERATOR_KEY: key})
    operator_key(ledger, first)
    with pytest.raises(KitError, match=f"reference is '{now}' .* and '{began}' in the market"):
        operator_key(ledger, then)


def test_the_terms_hold_the_contract_and_what_else_one_must_know(settings):
    said = terms(settings)
    assert settings.contract().items() <= said.items()
    assert {"mechanism", "preset", "task", "rounds", "deadline-s", "currency"} <= said.keys()


# --- the operator's certificates ------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path):
    hosts = ["market.example", "2001:db8::1", "*.fleet.example"]
    make_server_certificates(tmp_path / "certificates", hosts)
    return tmp_path / "certificates"


@pytest.mark.parametrize(
    "fleet", ["Market.example:9092", "[2001:DB8:0::1]:9092", "a.fleet.example:1"]
)
def test_the_ca_is_read(certificates, fleet):
    assert read_authority(certificates, fleet) == (certificates / "ca.pem").read_text()


def test_a_fleet_address_that_the_certificate_is_not_for_is_refused(certificates):
    with pytest.raises(KitError, match=r"--renew --host elsewhere\.example"):
        read_authority(certificates, "elsewhere.example:9092")


def test_a_certificate_that_is_kept_elsewhere_is_not_looked_at(certificates):
    (certificates / "server.pem").unlink()
    assert read_authority(certificates, "elsewhere.example:9092")


def test_a_wildcard_is_for_one_label_alone(certificates):
    for host in ("fleet.example", "a.b.fleet.example"):
        with pytest.raises(KitError, match="is for"):
            read_authority(certificates, f"{host}:9092")


@pytest.mark.parametrize("fleet", ["market.example", "unix:///run/x", "market.example:0", "", ":1"])
def test_a_fleet_that_is_no_address_is_refused(certificates, fleet):
    with pytest.raises(KitError, match="is no HOST:PORT"):
        read_authority(certificates, fleet)


def test_an_expired_certificate_is_refused(tmp_path):
    authority = make_authority(tmp_path, "ca")
    issue(authority, tmp_path, "server", ["market.example"], days=0)
    with pytest.raises(KitError, match=r"server\.pem expired at .* UTC"):
        read_authority(tmp_path, "market.example:9092")


def test_a_kit_that_could_not_be_read_is_not_made(tmp_path):
    for fields in ({"fleet": "ä.example:9092"}, {"bundles": []}, {"ca": "x" * 30_000}):
        with pytest.raises(KitError, match=f"no kit can be made: {next(iter(fields))}"):
            make_kit(tmp_path, **fields)
