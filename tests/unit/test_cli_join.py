"""The institution's side of joining: its request, and which kits it takes."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from support.joining import BUNDLE, make_kit
from typer.testing import CliRunner

from ipfl_flower.cli import main
from ipfl_flower.cli.documents import SIZE_MAX, KitError
from ipfl_flower.cli.join import check_kit
from ipfl_flower.cli.kit import Kit
from ipfl_flower.cli.node_keys import load_node_key, openssh, sign
from ipfl_flower.cli.request import JoinRequest
from ipfl_flower.cli.versions import own_versions
from ipfl_flower.receipts import read_public_key


def ipfl(*arguments):
    """Run a command; return what it prints, or raise what it refuses."""
    done = CliRunner().invoke(main.cli, [str(item) for item in arguments], catch_exceptions=True)
    if done.exception is not None:
        raise done.exception
    return done.output


def join(kit_file, folder):
    """Take a kit over whose operator has read its key out."""
    return ipfl("join", kit_file, "--dir", folder, "--operator", Kit.read(kit_file).operator_key)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "alder"
    ipfl("join-request", "alder", "--dir", folder)
    return folder


@pytest.fixture
def operator():
    return Ed25519PrivateKey.generate()


@pytest.fixture
def kit_file(tmp_path, folder, operator):
    make_kit(folder, operator).write(tmp_path / "alder.kit.json")
    return tmp_path / "alder.kit.json"


# --- the request ----------------------------------------------------------------------------------


def test_a_request_has_the_public_key_and_the_private_one_stays(folder):
    request = JoinRequest.read(folder / "alder.request.json")
    assert request.name == "alder"
    assert request.versions == own_versions()
    assert request.public_key == openssh(load_node_key(folder).public_key())
    assert (folder / "node.key").stat().st_mode & 0o777 == 0o600
    secret = (folder / "node.key").read_text().split("\n")[3]
    assert secret not in (folder / "alder.request.json").read_text()


def test_the_fingerprint_is_the_one_that_openssh_shows(folder):
    shown = subprocess.run(
        ["ssh-keygen", "-lf", folder / "node.key.pub"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] in ipfl("join-request", "alder", "--dir", folder)


def test_a_key_that_is_there_is_used_again(folder):
    before = (folder / "node.key").read_bytes()
    assert "is used again" in ipfl("join-request", "birch", "--dir", folder)
    assert (folder / "node.key").read_bytes() == before
    assert JoinRequest.read(folder / "birch.request.json").name == "birch"


@pytest.mark.parametrize("name", ["", "-rf", "../x", "a b", "a\n", "ä", "a" * 65, ".hidden"])
def test_a_name_that_is_no_part_of_a_file_name_is_refused(tmp_path, name):
    with pytest.raises(KitError, match="won't do"):
        ipfl("join-request", "--dir", tmp_path, "--", name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["name", "created", "versions"])
def test_a_request_that_was_changed_is_refused(folder, field):
    path = folder / "alder.request.json"
    other = {"name": "oak", "created": "2020-01-01T00:00:00Z", "versions": {"flwr": "1"}}
    path.write_text(json.dumps({**json.loads(path.read_text()), field: other[field]}))
    with pytest.raises(KitError, match="isn't signed by the owner of its key"):
        JoinRequest.read(path)


def test_nobody_asks_with_anothers_key(folder, tmp_path):
    ipfl("join-request", "alder", "--dir", tmp_path / "thief")
    stolen = json.loads((folder / "alder.request.json").read_text())["public_key"]
    path = tmp_path / "thief" / "alder.request.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "public_key": stolen}))
    with pytest.raises(KitError, match="isn't signed by the owner of its key"):
        JoinRequest.read(path)


def test_a_request_from_the_future_shows_a_wrong_clock(folder):
    request = JoinRequest.signed("alder", load_node_key(folder))
    later = request.model_copy(update={"created": datetime.now(UTC) + timedelta(hours=1)})
    signature = sign(load_node_key(folder), later.payload())
    later.model_copy(update={"signature": signature}).write(folder / "late.json")
    with pytest.raises(KitError, match="one of the two clocks is wrong"):
        JoinRequest.read(folder / "late.json")


def test_versions_cannot_write_on_the_operators_terminal(folder):
    path = folder / "alder.request.json"
    versions = {"flwr": "1\n\x1b[31m", "ipfl-flower": "0"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "versions": versions}))
    with pytest.raises(
        KitError, match=r"is no join request, or damaged \(versions\.flwr"
    ) as refused:
        JoinRequest.read(path)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_key_that_others_can_read_is_refused(folder, mode):
    (folder / "node.key").chmod(mode)
    with pytest.raises(KitError, match="chmod 600"):
        ipfl("join-request", "alder", "--dir", folder)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (["-t", "ed25519"], "ECDSA P-384"),
        (["-t", "ecdsa", "-b", "256"], "ECDSA P-384"),
        (["-t", "ecdsa", "-b", "384", "-N", "secret"], "passphrase"),
    ],
)
def test_a_key_of_another_kind_is_refused(tmp_path, made, message):
    key = tmp_path / "node.key"
    quiet = [] if "-N" in made else ["-N", ""]
    subprocess.run(["ssh-keygen", "-q", *made, *quiet, "-f", key], check=True)
    with pytest.raises(KitError, match=message):
        ipfl("join-request", "alder", "--dir", tmp_path)


def test_a_dangling_link_in_place_of_the_key_is_not_followed(tmp_path):
    (tmp_path / "node.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KitError, match=r"node\.key"):
        ipfl("join-request", "alder", "--dir", tmp_path)
    assert not (tmp_path / "elsewhere").exists()


# --- files that are no documents ------------------------------------------------------------------

NO_DOCUMENTS = {
    "empty": b"",
    "no JSON": b"\x00\xff\x1b[31m",
    "truncated": b'{"name": "al',
    "another document": b'{"name": "alder"}',
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "large": b" " * (SIZE_MAX + 1),
}


@pytest.mark.parametrize("reader", [Kit, JoinRequest])
@pytest.mark.parametrize("content", NO_DOCUMENTS.values(), ids=NO_DOCUMENTS)
def test_a_file_that_is_no_document_gives_one_plain_line(tmp_path, reader, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(KitError) as refused:
        reader.read(path)
    line = str(refused.value)
    assert line.startswith(str(path))
    assert line.isprintable()
    assert len(line) < len(str(path)) + 200


@pytest.mark.parametrize("reader", [Kit, JoinRequest])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder", "missing"):
        with pytest.raises(KitError, match=name):
            reader.read(tmp_path / name)


def test_every_truncation_of_a_kit_is_refused(kit_file):
    content = kit_file.read_bytes()
    for length in range(0, len(content) - 2, 37):
        kit_file.write_bytes(content[:length])
        with pytest.raises(KitError):
            Kit.read(kit_file)


# --- the kit --------------------------------------------------------------------------------------


def test_a_kit_is_taken_over(folder, kit_file):
    said = join(kit_file, folder)
    kit = Kit.read(folder / "kit.json")
    assert kit == Kit.read(kit_file)
    assert (folder / "ca.pem").read_text() == kit.ca
    assert (folder / "allowed").read_text() == f"{BUNDLE}\n"
    assert f"this app bundle may run here: {BUNDLE}\n" in said
    assert read_public_key(folder / "operator.key") == kit.operator_key
    assert "distance-weight  5.0" in said
    assert f'operator_key = "{kit.operator_key}"' in said


def test_the_same_kit_may_come_twice(folder, kit_file):
    first = join(kit_file, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert join(kit_file, folder).splitlines()[0] == first.splitlines()[0]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_a_later_kit_does_not_allow_a_bundle_by_itself(folder, kit_file, operator):
    join(kit_file, folder)
    make_kit(folder, operator, bundles=["0b" * 32]).write(kit_file)
    assert f"ipfl allow {folder} {'0b' * 32}" in join(kit_file, folder)
    assert (folder / "allowed").read_text() == f"{BUNDLE}\n"


CHANGES = {
    "name": "oak",
    "fleet": "elsewhere.example:9092",
    "bundles": ["0b" * 32],
    "terms": {"distance-weight": 4.0},
    "versions": {},
    "issued": "2020-01-01T00:00:00Z",
    "operator_key": "01" * 32,
}


@pytest.mark.parametrize("field", [*CHANGES, "ca", "public_key"])
def test_a_kit_that_was_changed_is_refused(folder, tmp_path, kit_file, field):
    other = json.loads(make_kit(tmp_path / "other").model_dump_json())
    changed = {**json.loads(kit_file.read_text()), field: CHANGES.get(field, other.get(field))}
    kit_file.write_text(json.dumps(changed))
    with pytest.raises(KitError, match="was changed after it was signed"):
        ipfl("join", kit_file, "--dir", folder)
    assert not (folder / "kit.json").exists()


def test_a_kit_for_another_key_is_refused(tmp_path, folder):
    make_kit(tmp_path / "birch").write(tmp_path / "kit")
    with pytest.raises(KitError, match="is for another key"):
        ipfl("join", tmp_path / "kit", "--dir", folder)


def test_a_kit_without_a_key_of_its_own_is_refused(tmp_path, kit_file):
    with pytest.raises(KitError, match="ipfl join-request makes it"):
        ipfl("join", kit_file, "--dir", tmp_path / "nowhere")


def test_another_operator_than_the_one_accepted_is_refused(folder, kit_file):
    join(kit_file, folder)
    before = (folder / "kit.json").read_bytes()
    make_kit(folder).write(kit_file)
    for how in (ipfl, lambda *_: join(kit_file, folder)):
        with pytest.raises(KitError, match="ask the operator by another channel"):
            how("join", kit_file, "--dir", folder)
    assert (folder / "kit.json").read_bytes() == before


def test_the_operator_is_compared_with_what_was_read_out(folder, kit_file):
    key = Kit.read(kit_file).operator_key
    with pytest.raises(KitError, match=f"signed by the operator key {key}, not {'0' * 64}"):
        ipfl("join", kit_file, "--dir", folder, "--operator", "0" * 64)
    ipfl("join", kit_file, "--dir", folder, "--operator", key.upper())


def test_the_first_kit_needs_the_operators_key_by_another_channel(folder, kit_file):
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(KitError, match="telephone the operator") as refused:
        ipfl("join", kit_file, "--dir", folder)
    assert Kit.read(kit_file).operator_key in str(refused.value)
    assert "--operator KEY" in str(refused.value)
    assert {path.name for path in folder.iterdir()} == before
    join(kit_file, folder)
    ipfl("join", kit_file, "--dir", folder)  # now the operator is known


def test_an_older_kit_of_the_same_operator_is_refused(folder, kit_file, operator):
    join(kit_file, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    old = datetime.now(UTC) - timedelta(days=1)
    make_kit(folder, operator, issued=old, fleet="old.example:9092").write(kit_file)
    with pytest.raises(KitError, match="it is out of date"):
        ipfl("join", kit_file, "--dir", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_a_later_kit_changes_is_said(folder, kit_file, operator):
    join(kit_file, folder)
    terms = {"distance-weight": 4.0, "red\x1b[31m": 1}
    make_kit(folder, operator, fleet="new.example:9092", terms=terms).write(kit_file)
    said = ipfl("join", kit_file, "--dir", folder)
    changes = [line for line in said.splitlines() if line.startswith("changed: ")]
    assert changes[0] == (
        "changed: the SuperLink is at new.example:9092, was at market.example:9092"
    )
    assert changes[1].startswith("changed: the CA's certificate has the SHA-256 ")
    assert changes[2:] == [
        "changed: distance-weight is 4.0, was 5.0",
        "changed: red\\x1b[31m is 1, was missing",
        'changed: task is missing, was "digits"',
    ]
    assert "changed: " not in ipfl("join", kit_file, "--dir", folder)


def test_a_kit_without_terms_is_taken_over(folder, kit_file, operator):
    make_kit(folder, operator, terms={}).write(kit_file)
    assert "on these terms" in join(kit_file, folder)


@pytest.mark.parametrize("fleet", ["a..b:9092", "-h:9092", "a:99999", "a:0", "[1:2]:9092"])
def test_an_address_that_cannot_be_dialled_is_in_no_kit(folder, kit_file, fleet):
    with pytest.raises(KitError, match="no kit can be made: fleet"):
        make_kit(folder, fleet=fleet)
    kit_file.write_text(json.dumps({**json.loads(kit_file.read_text()), "fleet": fleet}))
    with pytest.raises(KitError, match=r"or damaged \(fleet"):
        join(kit_file, folder)


def test_a_link_is_not_followed_even_if_it_is_made_at_the_last_moment(kit_file, monkeypatch):
    link = kit_file.with_name("link")
    link.symlink_to(kit_file)
    monkeypatch.setattr(type(link), "is_symlink", lambda _: False)  # it was no link just before
    with pytest.raises(KitError, match="is a symbolic link"):
        Kit.read(link, follow=False)


@pytest.mark.parametrize("theirs", [{}, {"flwr": "1.39.0"}, {**own_versions(), "flwr": "1.40.0"}])
def test_versions_that_do_not_work_together_are_refused(folder, theirs):
    kit = make_kit(folder, versions=theirs)
    with pytest.raises(KitError, match=r"at the operator and .* here: install the same series"):
        check_kit(kit, folder, kit.operator_key)


def test_another_release_of_the_same_series_is_taken(folder):
    series = ".".join(own_versions()["ipfl-flower"].split(".")[:2])
    theirs = {**own_versions(), "ipfl-flower": f"{series}.99"}
    kit = make_kit(folder, versions=theirs)
    assert check_kit(kit, folder, kit.operator_key) is None


def test_a_kit_holds_as_long_as_its_ca(folder):
    kit = make_kit(folder)
    kit.check_time()
    with pytest.raises(KitError, match="CA certificate expired at"):
        kit.check_time(datetime.now(UTC) + timedelta(days=4000))
    with pytest.raises(KitError, match="set the clock"):
        kit.check_time(datetime.now(UTC) - timedelta(days=1))


def test_a_kit_that_is_a_link_is_refused_and_one_that_was_mounted_is_not(folder, kit_file):
    link = kit_file.with_name("link")
    link.symlink_to(kit_file)
    with pytest.raises(KitError, match="symbolic link: name the kit itself"):
        ipfl("join", link, "--dir", folder)
    assert Kit.read(link) == Kit.read(kit_file)


def test_a_link_in_the_folder_is_replaced_and_not_written_through(folder, kit_file, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (folder / "ca.pem").symlink_to(tmp_path / "precious")
    join(kit_file, folder)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (folder / "ca.pem").read_text() == Kit.read(kit_file).ca


def test_terms_cannot_write_on_the_terminal(folder, kit_file, operator):
    make_kit(folder, operator, terms={"task\x1b[2J": "\x1b[31mred\n"}).write(kit_file)
    said = join(kit_file, folder)
    assert "\x1b" not in said


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ipfl", "join", str(tmp_path / "missing.json")])
    with pytest.raises(SystemExit) as ended:
        main.app()
    assert ended.value.code == 1
    errors = capsys.readouterr().err
    assert (
        errors
        == f"ipfl: {tmp_path}/missing.json, the kit, can't be read: No such file or directory\n"
    )
