"""The app bundle that a kit names is the one that any machine builds of the same sources."""

import os
import shutil
import zipfile

import pytest

from ipfl_flower.cli import bundle
from ipfl_flower.cli.bundle import stage_app
from ipfl_flower.cli.flower import SCRIPTS, FlowerCli
from ipfl_flower.cli.processes import LaunchError, ProcessGroup


@pytest.fixture
def flower(tmp_path):
    environment = {**os.environ, "FLWR_HOME": str(tmp_path / "flower")}
    with ProcessGroup(tmp_path / "logs", environment) as group:
        yield FlowerCli(group, "market")


def test_a_checkout_and_an_installed_copy_make_the_same_bundle(tmp_path, flower, monkeypatch):
    checkout = stage_app(tmp_path / "app")
    site = tmp_path / "site"
    shutil.copytree(checkout, site, copy_function=shutil.copy)  # other dates
    (site / "pyproject.toml").rename(site / "ipfl_flower" / "pyproject.toml")  # as in the wheel
    for path in site.rglob("*.py"):
        path.chmod(0o600)
    (site / "ipfl_flower" / "__pycache__").mkdir()
    (site / "ipfl_flower" / "__pycache__" / "x.pyc").write_bytes(b"x")
    monkeypatch.setattr(bundle, "_source", lambda package: site / package)
    installed = stage_app(tmp_path / "other-name")
    assert flower.bundle(checkout) == flower.bundle(installed)
    (installed / "client_app" / "main.py").write_text("print('hello')\n")
    assert flower.bundle(checkout) != flower.bundle(installed)


def test_nothing_in_a_bundle_is_compressed(tmp_path, flower):
    """What a compressor makes depends on its version: then hashes would differ."""
    app = stage_app(tmp_path / "app")
    flower._group.run(
        "build", [SCRIPTS / "flwr", "build", "--app", app], timeout_s=60, folder=tmp_path
    )
    (file,) = tmp_path.glob("*.fab")
    with zipfile.ZipFile(file) as fab:
        kinds = {item.compress_type for item in fab.infolist()}
        dates = {item.date_time for item in fab.infolist()}
    assert kinds == {zipfile.ZIP_STORED}
    assert len(dates) == 1


def test_a_folder_that_is_no_app_is_refused(tmp_path, flower):
    (tmp_path / "app").mkdir()
    with pytest.raises(LaunchError, match="build failed"):
        flower.bundle(tmp_path / "app")
