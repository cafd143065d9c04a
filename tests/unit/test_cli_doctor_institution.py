"""The checks of an institution's side, with real kits, keys, certificates and a real trainer."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.door import expire
from support.joining import BUNDLE, make_kit
from support.trainers import institution_file, trainer_process
from typer.testing import CliRunner

from ipfl_flower.cli import doctor
from ipfl_flower.cli.authority import Authority, certificate_pem
from ipfl_flower.cli.certs import issue, make_authority, make_server_certificates
from ipfl_flower.cli.doctoring import institution as module
from ipfl_flower.cli.doctoring.finding import Finding, State, look, ok
from ipfl_flower.cli.doctoring.institution import (
    Asked,
    authority_is_the_kits,
    bundles_allowed,
    examine_institution,
    installed_bundle,
    key_is_the_kits,
    kit_good,
    secret_files,
    trainer_tls,
    versions_fit,
)
from ipfl_flower.cli.doctoring.trainer import (
    InstitutionFile,
    describe,
    device_used,
    layout_known,
    operator_key_pinned,
    trainer_fits,
    trainer_rooms,
    trainer_versions,
)
from ipfl_flower.cli.documents import KitError
from ipfl_flower.cli.join import take_over
from ipfl_flower.cli.processes import LaunchError, free_port
from ipfl_flower.cli.supernode import TrainerAddress
from ipfl_flower.cli.versions import own_versions
from ipfl_flower.door.allowed import AllowedError
from ipfl_flower.trainer_api import TrainerRefusedError, TrainerUnreachableError

NOWHERE = TrainerAddress("unix:///nowhere/trainer.sock")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "alder"


@pytest.fixture
def kit(folder):
    made = make_kit(folder)
    take_over(made, folder)
    return made


# --- what ipfl join wrote -------------------------------------------------------------------------


def test_a_kit_lasts_as_long_as_its_ca(kit):
    found = kit_good(kit)
    assert found.state is State.OK
    assert "the kit of alder, for market.example:9092, is signed" in found.line


@pytest.mark.parametrize("wrong", ["not yet", "over", "soon over"])
def test_a_kit_whose_time_is_over_or_has_not_come(folder, monkeypatch, wrong):
    if wrong == "not yet":
        kit = make_kit(folder, issued=datetime.now(UTC) + timedelta(hours=1))
    else:
        monkeypatch.setattr("ipfl_flower.cli.authority.CA_DAYS", 0 if wrong == "over" else 10)
        kit = make_kit(folder, ca=certificate_pem(Authority.make("x").certificate).decode())
    if wrong == "soon over":
        assert kit_good(kit).state is State.WARN
        return
    with pytest.raises(KitError, match="set the clock" if wrong == "not yet" else "expired"):
        kit_good(kit)


def test_versions_are_of_the_operators_series(folder, kit):
    assert versions_fit(kit).state is State.OK
    other = make_kit(folder, versions={**own_versions(), "flwr": "1.40.0"})
    with pytest.raises(KitError, match=r"flwr is 1\.40\.0 at the operator"):
        versions_fit(other)


def test_the_node_key_is_the_kits(tmp_path, folder, kit):
    found = key_is_the_kits(folder, kit)
    assert found.state is State.OK
    assert found.line.startswith("SHA256:")
    other = key_is_the_kits(folder, make_kit(tmp_path / "birch"))
    assert other.state is State.FAIL
    assert other.line.count("SHA256:") == 2


def test_a_node_key_that_kubernetes_mounted_is_read(folder, kit):
    (folder / "node.key").chmod(0o440)
    assert key_is_the_kits(folder, kit).state is State.OK


@pytest.mark.parametrize(
    ("content", "said"), [(None, "can't be read"), ("nothing", "holds no private key")]
)
def test_a_node_key_that_is_lost_or_damaged_is_named(folder, kit, content, said):
    (folder / "node.key").unlink()
    if content is not None:
        (folder / "node.key").write_text(content)
    with pytest.raises(KitError, match=said):
        key_is_the_kits(folder, kit)


def test_both_private_keys_are_secrets(tmp_path, folder):
    there = TrainerAddress("gpu:9095", tmp_path / "ca", tmp_path / "pem", tmp_path / "key")
    assert secret_files(Asked(folder, there)) == [folder / "node.key", tmp_path / "key"]
    assert secret_files(Asked(folder, NOWHERE)) == [folder / "node.key"]


def test_ca_and_operator_key_are_the_kits(folder, kit):
    assert authority_is_the_kits(folder, kit).state is State.OK
    (folder / "operator.key").write_text("00" * 32)
    found = authority_is_the_kits(folder, kit)
    assert (found.state, "operator.key is not" in found.line) == (State.FAIL, True)
    (folder / "ca.pem").write_bytes(certificate_pem(Authority.make("x").certificate))
    found = authority_is_the_kits(folder, kit)
    assert (found.state, "ca.pem is not" in found.line) == (State.FAIL, True)
    (folder / "ca.pem").unlink()
    with pytest.raises(KitError, match=r"ca\.pem"):
        authority_is_the_kits(folder, kit)


def test_the_operators_bundle_is_allowed_and_compared_with_ours(folder, kit, monkeypatch):
    monkeypatch.setattr(module, "installed_bundle", lambda: BUNDLE)
    assert bundles_allowed(folder, kit).state is State.OK
    monkeypatch.setattr(module, "installed_bundle", lambda: "0b" * 32)
    found = bundles_allowed(folder, kit)
    assert found.state is State.WARN
    assert BUNDLE in found.line


def test_a_bundle_that_cannot_be_built_here_is_not_compared(folder, kit, monkeypatch):
    def fails():
        raise FileNotFoundError("package server_app is not installed")

    monkeypatch.setattr(module, "installed_bundle", fails)
    found = bundles_allowed(folder, kit)
    assert found.state is State.WARN
    assert "server_app is not installed" in found.line


def test_a_bundle_that_is_not_allowed_is_named_with_the_command(folder, kit):
    (folder / "allowed").write_text("0c" * 32)
    found = bundles_allowed(folder, kit)
    assert found.state is State.FAIL
    assert found.line.endswith(f"ipfl allow {folder} {BUNDLE}")
    (folder / "allowed").write_text("nothing")
    with pytest.raises(AllowedError, match="is no SHA-256"):
        bundles_allowed(folder, kit)


def test_the_installed_bundle_is_the_same_each_time():
    assert installed_bundle() == installed_bundle()


# --- the trainer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """Give what a real trainer says of itself, and where it listens with TLS."""
    folder = tmp_path_factory.mktemp("trainer")
    authority = make_authority(folder, "alder")
    issue(authority, folder, "trainer", ["127.0.0.1"])
    issue(authority, folder, "supernode", [])
    file = institution_file(folder)
    tls = ("--certificate", folder / "trainer.pem", "--key", folder / "trainer.key")
    options = ("--listen", "127.0.0.1:0", *tls, "--client-ca", folder / "ca.pem")
    with trainer_process(file, *map(str, options)) as running:
        address = TrainerAddress(
            running.address,
            *(folder / name for name in ("ca.pem", "supernode.pem", "supernode.key")),
        )
        yield address


@pytest.fixture(scope="module")
def description(trainer):
    return describe(trainer.address, Asked(trainer.ca.parent, trainer).tls)


def test_a_trainer_fits_its_kit(folder, description):
    kit = make_kit(folder, terms={"task": "digits", "samples-max": 60})
    found = trainer_fits(description, kit)
    assert (found.state, found.line) == (State.OK, "alder, task digits, 60 samples")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "birch"}, "the trainer is alder, and the kit is for birch"),
        ({"terms": {"task": "fashion-mnist"}}, "the market trains fashion-mnist"),
        ({"terms": {"samples-max": 59}}, "at most 59"),
    ],
)
def test_a_trainer_that_does_not_fit_its_kit(folder, description, fields, said):
    found = trainer_fits(description, make_kit(folder, **fields))
    assert found.state is State.FAIL
    assert said in found.line


def test_who_leaves_is_warned(description, kit):
    assert trainer_fits(replace(description, leaving=True), kit).state is State.WARN


def test_the_trainers_versions_work_with_ours(description):
    found = trainer_versions(description)
    assert found.state is State.OK
    assert "torch" in found.line
    other = replace(description, versions={**description.versions, "ipfl-flower": "0.9.0"})
    with pytest.raises(KitError, match=r"ipfl-flower is 0\.9\.0 at the trainer"):
        trainer_versions(other)


@pytest.mark.parametrize(
    ("used", "wanted", "state"),
    [
        ("cuda", "auto", State.OK),
        ("cpu", "cpu", State.OK),
        ("cpu", None, State.OK),
        ("cpu", "auto", State.WARN),
    ],
)
def test_a_gpu_that_was_not_found_is_a_warning(tmp_path, description, used, wanted, state):
    file = None if wanted is None else InstitutionFile(tmp_path, wanted, None)
    assert device_used(replace(description, device=used), file).state is state


def test_the_layout_is_told_for_the_operator_to_compare(description):
    assert "tensors" in layout_known(description).line


def test_an_institution_file_is_read_without_torch(tmp_path, trainer):
    file = InstitutionFile.read(trainer.ca.parent / "institution.toml")
    assert file.state_dir == trainer.ca.parent / "state"
    assert file.operator_key is None
    (tmp_path / "bad.toml").write_text("name = ")
    (tmp_path / "short.toml").write_text('name = "alder"')
    for name, said in (("bad", "is not a TOML file"), ("short", "state_dir"), ("none", "be read")):
        with pytest.raises(KitError, match=said):
            InstitutionFile.read(tmp_path / f"{name}.toml")


def test_receipts_are_checked_with_the_key_that_signed_the_kit(tmp_path, kit):
    def pinned(key):
        return operator_key_pinned(InstitutionFile(tmp_path, "cpu", key), kit)

    assert pinned(kit.operator_key).state is State.OK
    assert pinned("00" * 32).state is State.FAIL
    assert pinned(None).state is State.WARN
    assert f'operator_key = "{kit.operator_key}"' in pinned(None).line


def test_the_trainers_disk_holds_its_models(tmp_path, description):
    (room,) = trainer_rooms(InstitutionFile(tmp_path, "cpu", None), description)
    assert room.folder == tmp_path
    assert room.bytes % 5 == 0
    assert room.bytes > 0


def test_a_trainer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(TrainerUnreachableError, match="ipfl trainer"):
        describe(f"unix://{tmp_path}/sock", None)


def test_the_trainers_certificate_is_good(folder, trainer):
    found = trainer_tls(Asked(folder, trainer))
    assert found.state is State.OK, found.line
    local = TrainerAddress("127.0.0.1:9095")
    assert "none is needed" in trainer_tls(Asked(folder, local)).line


@pytest.mark.parametrize("wrong", ["ca", "own", "soon", "no files", "half", "nobody", "pair"])
def test_tls_to_the_trainer_that_is_not_good(tmp_path, folder, trainer, wrong):
    other = make_server_certificates(tmp_path / "other", ["127.0.0.1"])
    state, said = State.FAIL, ""
    if wrong == "ca":
        asked, said = replace(trainer, ca=other.ca), "the same ca.pem"
    elif wrong in ("own", "soon"):
        expire(tmp_path / "other", days=-1.0 if wrong == "own" else 5.0)
        key = other.key
        asked, said = replace(trainer, certificate=other.certificate, key=key), "certs trainer"
        state = State.FAIL if wrong == "own" else State.WARN
    elif wrong == "no files":
        asked, said = TrainerAddress("gpu.example:9095"), "give --trainer-ca"
    elif wrong == "half":
        asked, said = replace(trainer, key=None), "--trainer-key is missing"
    elif wrong == "nobody":
        asked, said = replace(trainer, address=f"127.0.0.1:{free_port()}"), "start ipfl trainer"
    else:
        asked, said = replace(trainer, key=other.key), "are no certificate and its key"
    found = look("trainer tls", lambda: trainer_tls(Asked(folder, asked)))
    assert found.state is state, found.line
    assert said in found.line


def test_a_trainer_refuses_who_shows_no_certificate_of_its_own_ca(tmp_path, trainer):
    other = make_server_certificates(tmp_path / "other", ["127.0.0.1"])
    stranger = replace(trainer, certificate=other.certificate, key=other.key)
    with pytest.raises((TrainerUnreachableError, TrainerRefusedError)):
        describe(stranger.address, Asked(tmp_path, stranger).tls)


# --- the whole, and what is printed ---------------------------------------------------------------


def test_every_check_is_made_whatever_the_others_find(folder):
    found = {item.check: item for item in examine_institution(Asked(folder, NOWHERE))}
    failing = {check for check, item in found.items() if item.state is State.FAIL}
    assert failing == {"kit", "secrets", "trainer"}
    assert {item.state for check, item in found.items() if check not in failing} == {State.WARN}
    assert found["registration"].line == "not known: see clock"
    assert found["disk"].line == "not known: see institution.toml"
    assert "--institution was not given" in found["institution.toml"].line


def doctor_says(monkeypatch, states, *options):
    findings = [Finding(f"check {i}", state, f"line {i}") for i, state in enumerate(states)]
    monkeypatch.setattr(doctor, "examine_institution", lambda _: iter(findings))
    command = ["institution", "DIR", "--trainer", "unix:///x", *options]
    return CliRunner().invoke(doctor.doctor_app, command)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ([State.OK, State.OK], 0),
        ([State.OK, State.WARN], 0),
        ([State.FAIL, State.OK], 1),
    ],
)
def test_only_what_fails_is_an_error(monkeypatch, states, code):
    result = doctor_says(monkeypatch, states)
    assert result.exit_code == code
    lines = result.output.splitlines()
    assert lines[1] == f"{states[1]:<4}  check 1: line 1"
    assert len(lines) == 2
    result = doctor_says(monkeypatch, states, "--json")
    assert result.exit_code == code
    first, _ = json.loads(result.output)
    assert first == {"check": "check 0", "state": str(states[0]), "line": "line 0"}


def test_a_strangers_text_stays_on_one_line_and_moves_no_cursor():
    assert look("x", lambda: ok("a\nb\x1b[2J\tλ")).line == "a b?[2J λ"


@pytest.mark.parametrize("error", [LaunchError("no"), KitError("no"), OSError("no")])
def test_an_expected_error_is_a_finding_and_a_bug_is_not(error):
    def raises(what):
        raise what

    assert look("x", lambda: raises(error)) == Finding("x", State.FAIL, "no")
    with pytest.raises(ZeroDivisionError):
        look("x", lambda: raises(ZeroDivisionError()))


def test_a_kit_that_another_operator_changed_is_no_kit(folder, kit):
    changed = kit.model_copy(
        update={"operator_key": make_kit(folder, Ed25519PrivateKey.generate()).operator_key}
    )
    changed.write(folder / "kit.json")
    found = next(examine_institution(Asked(folder, NOWHERE)))
    assert found.state is State.FAIL
    assert "was changed after it was signed" in found.line
    assert os.linesep not in found.line
