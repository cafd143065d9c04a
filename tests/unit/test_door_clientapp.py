"""The check between a bundle's arrival and the first use of anything in it."""

import hashlib
import io
import subprocess
import sys
import zipfile

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.fab import Fab
from flwr.supercore.run import Run

from ipfl_flower.door import clientapp
from ipfl_flower.door.executor import CLIENT_APP, client_environment

PYPROJECT = """
[project]
name = "door"
version = "1.0.0"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "test"
[tool.flwr.app.components]
serverapp = "{package}:app"
clientapp = "{package}:app"
"""
APP = """
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
Path({marker!r}).touch()
app = ClientApp()
@app.train()
def train(message, context):
    {body}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Give a folder for Flower's unpacked apps and the marker; undo what a loaded app imports."""
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def bundle(place, body="return Message(RecordDict(), reply_to=message)"):
    """Return a bundle that leaves a marker on import, in a package of its own name."""
    package = f"app_{hashlib.sha256(str(place).encode()).hexdigest()[:12]}"
    files = {
        "pyproject.toml": PYPROJECT.format(package=package),
        f"{package}/__init__.py": APP.format(marker=str(place / "marker"), body=body),
    }
    listed = "\n".join(
        f"{name},{hashlib.sha256(text.encode()).hexdigest()},{len(text) * 8}"
        for name, text in files.items()
    )
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in {**files, ".info/CONTENT": listed}.items():
            archive.writestr(name, text)
    return content.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def ask(content, allowed, *, claimed=None, fab_version="1.0.0"):
    """Hand a message and a bundle to the door, with what the operator says of the bundle."""
    claimed = claimed or sha256(content)
    message = Message(
        RecordDict({"c": ConfigRecord({"a": 1})}), dst_node_id=7, message_type="train"
    )
    message.metadata.__dict__["_message_id"] = "1"
    run = Run.create_empty(1)
    run.fab_id, run.fab_version, run.fab_hash = "test/door", fab_version, claimed
    context = Context(1, 7, {}, RecordDict(), {})
    fab = Fab(claimed, content, {})
    return clientapp.answer(message, context, run, fab, allowed, "/srv/alder")


def test_an_allowed_bundle_answers(place):
    content = bundle(place)
    outcome = ask(content, {sha256(content)})
    assert outcome.sub_status == SubStatus.COMPLETED
    assert not outcome.reply.has_error()
    assert (place / "marker").exists()


def test_another_bundle_is_refused_and_not_unpacked(place, caplog):
    content = bundle(place)
    with caplog.at_level("WARNING", "ipfl.door"):
        outcome = ask(content, {"0" * 64})
    assert outcome.reply.error.code == ErrorCode.INVALID_FAB
    assert outcome.reply.error.reason.endswith(f"ipfl allow DIR {sha256(content)}")
    assert caplog.messages[0].endswith(f"ipfl allow /srv/alder {sha256(content)}")
    assert not (place / "marker").exists()
    assert not (place / "flwr").exists()


def test_an_operator_who_claims_an_allowed_hash_for_other_bytes_is_refused(place):
    content = bundle(place)
    outcome = ask(content, {"ab" * 32}, claimed="ab" * 32)
    assert outcome.reply.error.code == ErrorCode.INVALID_FAB
    assert sha256(content) in outcome.reply.error.reason
    assert not (place / "marker").exists()


def test_one_changed_byte_makes_another_bundle(place):
    content = bundle(place)
    changed = content[:-1] + bytes([content[-1] ^ 1])
    assert ask(changed, {sha256(content)}).reply.error.code == ErrorCode.INVALID_FAB


def test_what_the_run_says_of_itself_does_not_choose_another_folder(place):
    evil = place / "evil"
    evil.mkdir()
    content = bundle(place)
    version = f"1.0.0.{sha256(content)[:8]}/../../../evil"
    outcome = ask(content, {sha256(content)}, fab_version=version)
    assert outcome.reply.error.code == ErrorCode.LOAD_CLIENT_APP_EXCEPTION
    assert not (place / "marker").exists()


def test_half_an_app_that_a_killed_process_left_is_not_loaded(place):
    content = bundle(place)
    left = place / "flwr" / "apps" / f"test.door.1.0.0.{sha256(content)[:8]}"
    left.mkdir(parents=True)
    (left / "pyproject.toml").write_text(PYPROJECT.format(package="half"))
    before = set((place / "flwr").rglob("*"))
    outcome = ask(content, {sha256(content)})
    assert outcome.sub_status == SubStatus.COMPLETED
    assert (place / "marker").exists()
    assert set((place / "flwr").rglob("*")) == before


def test_what_a_client_app_sees_of_the_environment():
    ours = {"PATH": "/bin", "FLWR_HOME": "/f", "OMP_NUM_THREADS": "1", "LC_ALL": "C"}
    secrets = {"PGPASSWORD": "x", "AWS_SECRET_ACCESS_KEY": "x", "PATH_TO_KEY": "x"}
    assert client_environment({**ours, **secrets}) == ours


def test_an_allowed_bundle_that_fails_is_an_error_reply_with_its_text(place):
    content = bundle(place, body="raise RuntimeError('no trainer')")
    outcome = ask(content, {sha256(content)})
    assert outcome.sub_status == SubStatus.FAILED
    assert outcome.reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "no trainer" in outcome.reply.error.reason


def test_what_is_allowed_but_no_bundle_is_an_error_reply(place):
    outcome = ask(b"no zip", {sha256(b"no zip")})
    assert outcome.reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def test_the_process_that_loads_the_bundle_has_no_ipfl_flower_of_its_own():
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1]); "
        "print([name for name in sys.modules if name.startswith('ipfl_flower')])"
    )
    printed = subprocess.run(
        [sys.executable, "-P", "-c", code, CLIENT_APP], capture_output=True, check=True, timeout=60
    ).stdout
    assert printed.strip() == b"[]"
