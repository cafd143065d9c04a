"""The checks of the operator's books, keys and disks: each as it should be, and each wrong way."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from support.door import expire
from support.joining import FakeRegister
from support.ledgers import play

from ipfl_flower.cli.admit import operator_key, register
from ipfl_flower.cli.bundle import to_toml
from ipfl_flower.cli.certs import make_server_certificates, write_private
from ipfl_flower.cli.doctoring import operator as module
from ipfl_flower.cli.doctoring.files import Room, room, secret_problem, secrets_kept, size, writable
from ipfl_flower.cli.doctoring.finding import NotKnownError, State
from ipfl_flower.cli.doctoring.layout import layout_line
from ipfl_flower.cli.doctoring.market import (
    admissions_kept,
    contract_kept,
    initial_tensors,
    ledger_sound,
    open_ledger,
    refused_lately,
)
from ipfl_flower.cli.doctoring.operator import (
    Operator,
    certificates_good,
    examine_operator,
    rooms,
    secret_files,
)
from ipfl_flower.cli.doctoring.versions import versions_here
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.node_keys import load_or_make_node_key
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.refusals import Kind, Refusal, Refusals
from ipfl_flower.cli.request import JoinRequest
from ipfl_flower.ledger import Ledger
from ipfl_flower.models import ModelError, save_model
from ipfl_flower.notary import OPERATOR_KEY
from ipfl_flower.receipts import public_hex
from ipfl_flower.settings import Settings

FLEET = "market.example:9092"


@pytest.fixture
def values(tmp_path):
    paths = {"ledger": "ledger.db", "models-dir": "models", "initial-model": "theta0.npz"}
    return {name: str(tmp_path / path) for name, path in paths.items()}


@pytest.fixture
def settings(values):
    return Settings.read(values)


@pytest.fixture
def ledger(settings):
    with Ledger.open(settings.ledger) as ledger:
        yield ledger


@pytest.fixture
def operator(tmp_path, values):
    make_server_certificates(tmp_path / "certificates", ["market.example"])
    write_private(tmp_path / "certificates" / "superexec.secret", b"secret")
    (tmp_path / "market.toml").write_text(to_toml(values))
    return Operator(
        tmp_path / "market.toml",
        tmp_path / "certificates",
        fleet=FLEET,
        superlink_folder=tmp_path / "superlink",
    )


# --- certificates and secrets ---------------------------------------------------------------------


def test_certificates_that_belong_together_are_good(operator):
    found = certificates_good(operator)
    assert found.state is State.OK
    assert "market.example" in found.line


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("expired", "expired at"),
        ("host", "--renew --host market.example"),
        ("no ca", "ca.pem, the certificate, can't be read"),
        ("damaged", "server.pem holds no certificate"),
        ("no key", "server.key, the SuperLink's key, can't be read"),
        ("damaged key", "server.key holds no private key"),
    ],
)
def test_a_certificate_that_does_not_do_is_named(tmp_path, operator, wrong, said):
    folder = operator.certificates
    if wrong == "expired":
        expire(folder)
    elif wrong == "host":
        shutil.rmtree(folder)
        make_server_certificates(folder, ["elsewhere.example"])
    elif wrong == "no ca":
        (folder / "ca.pem").unlink()
    elif wrong == "damaged":
        (folder / "server.pem").write_text("nothing")
    elif wrong == "no key":
        (folder / "server.key").unlink()
    else:
        (folder / "server.key").write_text("nothing")
    with pytest.raises(KitError) as refused:
        certificates_good(operator)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("server.pem", "server.key"), "is not signed by"),
        (("server.key",), "is not the key of"),
    ],
)
def test_files_of_two_authorities_do_not_go_together(tmp_path, operator, files, said):
    other = make_server_certificates(tmp_path / "other", ["market.example"]).ca.parent
    for name in files:
        shutil.copy(other / name, operator.certificates / name)
    found = certificates_good(operator)
    assert found.state is State.FAIL
    assert said in found.line


def test_a_certificate_that_soon_expires_is_a_warning(operator):
    expire(operator.certificates, days=10)
    found = certificates_good(operator)
    assert found.state is State.WARN
    assert "--renew, then restart the SuperLink" in found.line


def test_where_the_superlink_runs_elsewhere_its_certificate_is_not_known(operator):
    (operator.certificates / "server.pem").unlink()
    with pytest.raises(NotKnownError, match=r"no server\.pem"):
        certificates_good(operator)


def test_the_secrets_that_are_here_are_looked_at(operator, settings):
    names = [file.name for file in secret_files(operator, settings)]
    assert names == ["server.key", "superexec.secret", "ca.key"]
    write_private(settings.receipt_key_file, b"key")
    assert secret_files(operator, settings)[-1] == settings.receipt_key_file
    found = secrets_kept(secret_files(operator, settings))
    assert found.state is State.OK
    with pytest.raises(NotKnownError):
        secrets_kept([])


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602])
def test_a_secret_that_others_read_is_not_kept(operator, mode):
    file = operator.certificates / "server.key"
    file.chmod(mode)
    found = secrets_kept([operator.certificates / "superexec.secret", file])
    assert found.state is State.FAIL
    assert f"{file} (mode {mode:04o}) can be read by others: chmod 600 it" == found.line


@pytest.mark.parametrize(("mode", "fine"), [(0o440, True), (0o400, True), (0o444, False)])
def test_the_group_may_read_what_kubernetes_mounts(operator, monkeypatch, mode, fine):
    file = operator.certificates / "server.key"
    file.chmod(mode)
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert (secret_problem(file) is None) is fine


def test_a_secret_of_another_user_or_none_is_named(tmp_path, operator, monkeypatch):
    assert "can't be read" in secret_problem(tmp_path / "missing")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "by this user" in secret_problem(operator.certificates / "server.key")


# --- folders and disks ----------------------------------------------------------------------------


def test_a_folder_is_writable_or_can_be_made(tmp_path):
    assert writable(tmp_path).line == f"{tmp_path} can be written"
    later = tmp_path / "state" / "receipts"
    assert writable(later).line == f"{later} can be made"
    assert not later.parent.exists()


def test_a_folder_that_cannot_be_written_is_named():
    found = writable(Path("/proc/1/receipts"))
    assert found.state is State.FAIL
    assert "/proc/1" in found.line


@pytest.mark.parametrize(
    ("shares", "state"),
    [((0.1,), State.OK), ((0.7,), State.WARN), ((1.5,), State.FAIL), ((0.6, 0.6), State.FAIL)],
)
def test_folders_on_one_disk_share_its_room(tmp_path, shares, state):
    free = shutil.disk_usage(tmp_path).free
    found = room(
        [Room(tmp_path / "later" / str(i), int(free * share)) for i, share in enumerate(shares)]
    )
    assert found.state is state
    assert found.line.count("free at") == 1
    assert ("make room" in found.line) is (state is not State.OK)


def test_bytes_are_written_as_people_do():
    assert [size(number) for number in (0, 999, 1500, 2.5e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 GB",
    ]


def test_a_round_takes_the_models_of_everybody_who_takes_part(operator, settings, ledger):
    tensors = [("w", "float32", (10, 10)), ("b", "float16", (50,))]
    (models, messages) = rooms(operator, settings, tensors, None)
    assert (models.bytes, messages.bytes) == ((3 * 2 + 1) * 500, 2 * 2 * 500)
    for i in range(5):
        ledger.admit(ledger.enrol(f"n{i}", f"key{i}".encode()))
    ledger.expel("n0")
    (models, _) = rooms(operator, settings, tensors, ledger)
    assert models.bytes == (3 * 4 + 1) * 500
    assert models.folder == settings.models_dir


# --- the books ------------------------------------------------------------------------------------


def test_a_ledger_that_is_not_there_yet_is_nothing_wrong(settings):
    with pytest.raises(NotKnownError, match="the first ipfl admit makes it"):
        open_ledger(settings)
    assert not Path(settings.ledger).exists()


def test_a_ledger_verifies_and_says_its_head(settings, ledger):
    assert "the market has not begun" in ledger_sound(ledger).line
    play(ledger)
    found = ledger_sound(ledger)
    assert found.state is State.OK
    assert found.line.endswith(f"4 rounds, head {ledger.head()}")


def test_a_ledger_that_was_changed_does_not_verify(settings, ledger):
    play(ledger)
    with closing(sqlite3.connect(settings.ledger)) as raw:
        for (trigger,) in raw.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.execute("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 0")
        raw.commit()
    found = ledger_sound(ledger)
    assert found.state is State.FAIL
    assert "does not verify" in found.line


def test_a_receipt_key_is_not_made_by_looking(settings, ledger):
    found = contract_kept(settings, ledger)
    assert found.state is State.WARN
    assert not settings.receipt_key_file.exists()


def test_the_receipt_key_is_the_markets(settings, ledger):
    key = public_hex(operator_key(ledger, settings).public_key())
    assert "the market has not begun" in contract_kept(settings, ledger).line
    ledger.begin({**settings.contract(), OPERATOR_KEY: key})
    found = contract_kept(settings, ledger)
    assert found.state is State.OK
    assert key in found.line


def test_a_samples_max_that_was_changed_after_an_admission_is_wrong(settings, ledger):
    ledger.enrol("alder", b"alder", samples_cap=settings.samples_max - 1)
    wanted = f"alder was admitted with {settings.samples_max - 1}.*: set samples-max ="
    with pytest.raises(KitError, match=wanted):
        contract_kept(settings, ledger)


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        ({OPERATOR_KEY: "00" * 32}, "is not the key that this market began with"),
        ({"distance-weight": 4.0}, "distance-weight is 5.0"),
    ],
)
def test_another_key_or_other_terms_are_wrong(settings, ledger, recorded, said):
    key = public_hex(operator_key(ledger, settings).public_key())
    ledger.begin({**settings.contract(), OPERATOR_KEY: key, **recorded})
    with pytest.raises(KitError, match=said):
        contract_kept(settings, ledger)


@pytest.fixture
def flower():
    return FakeRegister()


def admit(folder, ledger, flower, name):
    key, _ = load_or_make_node_key(folder / name)
    register(JoinRequest.signed(name, key), ledger, flower, 1000)


def test_who_is_admitted_is_registered(tmp_path, ledger, flower):
    admit(tmp_path, ledger, flower, "alder")
    admit(tmp_path, ledger, flower, "birch")
    ledger.expel("birch")
    flower.unregister(flower.nodes()[1].node)
    found = admissions_kept(ledger, flower.nodes())
    assert found.state is State.OK
    assert found.line.startswith("1 admitted")


def test_a_key_that_the_superlink_lost_is_admitted_again(tmp_path, ledger, flower):
    admit(tmp_path, ledger, flower, "alder")
    found = admissions_kept(ledger, [])
    assert found.state is State.FAIL
    assert found.line == "the SuperLink lacks the keys of alder: ipfl admit them again"


def test_a_key_of_who_was_expelled_is_unregistered(tmp_path, ledger, flower):
    admit(tmp_path, ledger, flower, "alder")
    ledger.expel("alder")
    found = admissions_kept(ledger, flower.nodes())
    assert found.state is State.FAIL
    assert "alder: ipfl expel" in found.line


def test_a_key_that_nobody_admitted_is_a_warning(tmp_path, ledger, flower):
    with Ledger.open(tmp_path / "other.db") as other:
        admit(tmp_path, other, flower, "stranger")
    found = admissions_kept(ledger, flower.nodes())
    assert found.state is State.WARN
    assert "stranger" in found.line


def test_the_layout_of_the_initial_model_is_the_same_in_any_order(settings):
    save_model(settings.initial_model, {"b": np.ones(3, np.float32), "a": np.ones((2, 2))})
    tensors = initial_tensors(settings)
    line = layout_line(tensors)
    assert line.startswith("2 tensors, 7 parameters, 44 B, layout ")
    assert layout_line(reversed(tensors)) == line
    assert layout_line([*tensors[:1], ("a", "float32", (2, 2))]) != line


def test_an_initial_model_that_is_missing_is_named(settings):
    with pytest.raises(ModelError, match=r"theta0\.npz can't be read"):
        initial_tensors(settings)


# --- the door -------------------------------------------------------------------------------------


def test_who_was_refused_is_counted(tmp_path):
    with pytest.raises(NotKnownError, match="--superlink-folder"):
        refused_lately(None)
    with pytest.raises(NotKnownError, match="no ipfl superlink has run"):
        refused_lately(tmp_path)
    (tmp_path / "superlink.db").write_text("")
    assert refused_lately(tmp_path).line == "nobody was refused"
    refusals = Refusals(tmp_path / "refusals.json", lambda _: None)
    for _ in range(2):
        refusals.note(Refusal(Kind.UNKNOWN_KEY, "SHA256:x"))
    refusals.note(Refusal(Kind.NOT_TLS, "10.0.0.1:5"))
    refusals.flush(force=True)
    found = refused_lately(tmp_path)
    assert found.state is State.WARN
    assert "unknown-key 2, not-tls 1; 3 in the last 24 h, most of them unknown-key SHA256:x" in (
        found.line
    )
    later = refused_lately(tmp_path, datetime.now(UTC) + timedelta(days=2))
    assert later.state is State.OK
    assert later.line.endswith("nobody in the last 24 h")
    (tmp_path / "refusals.json").write_text("{")
    with pytest.raises(NotKnownError, match="damaged"):
        refused_lately(tmp_path)


# --- the whole ------------------------------------------------------------------------------------


def test_another_flower_than_the_one_we_are_made_for_is_a_warning():
    assert versions_here("fine").state is State.OK
    found = versions_here("fine", {"ipfl-flower": "0.1.0", "flwr": "1.42.0"})
    assert found.state is State.WARN
    assert "pip install flwr==" in found.line


def test_every_check_is_made_whatever_the_others_find(operator, monkeypatch):
    def nobody(*_):
        raise LaunchError("nobody answers")

    monkeypatch.setattr(module, "ask_nodes", nobody)
    operator.market.write_text("rounds = 0\n")
    fleetless = Operator(operator.market, operator.certificates)
    found = {item.check: item for item in examine_operator(fleetless)}
    states = {check: item.state for check, item in found.items()}
    assert states == {
        "versions": State.OK,
        "market.toml": State.FAIL,
        "certificates": State.OK,
        "secrets": State.OK,
        "fleet address": State.WARN,
        "fleet tls": State.WARN,
        "clock": State.WARN,
        "superlink": State.FAIL,
        "ledger": State.WARN,
        "receipt key": State.WARN,
        "admissions": State.WARN,
        "initial model": State.WARN,
        "models folder": State.WARN,
        "disk": State.WARN,
        "refusals": State.WARN,
    }
    assert "ledger is missing" in found["market.toml"].line
    assert found["clock"].line == "not known: --fleet was not given"
    assert found["disk"].line == "not known: see market.toml"
    assert json.loads(json.dumps(found["disk"].record()))["state"] == "warn"
