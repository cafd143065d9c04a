from pathlib import Path

import pytest

from ipfl_flower.cli import superlink as module
from ipfl_flower.cli.flower_versions import GRPC, HTTP, fleet_api
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.cli.superlink import run_superlink
from ipfl_flower.cli.superlink_command import superlink_command


def command(api, fleet_address="0.0.0.0:9092"):
    parts = superlink_command(
        certificates=Path("/c"),
        database=Path("/d"),
        fleet_address=fleet_address,
        host="127.0.0.1",
        port=8000,
        api=api,
    )
    return " ".join(str(part) for part in parts)


@pytest.mark.parametrize(
    ("flower", "api"),
    [("1.39.0", GRPC), ("1.39.7", GRPC), ("1.40.0", HTTP), ("1.42.0.dev1", HTTP), ("2.0", HTTP)],
)
def test_each_flower_has_its_fleet_api(flower, api):
    assert fleet_api(flower) is api


def test_the_pinned_flower_has_a_port_for_institutions_alone():
    assert fleet_api() is GRPC


def test_a_flower_that_is_too_old_is_named():
    with pytest.raises(ValueError, match=r"flwr 1\.36\.0 is too old: install flwr 1\.39"):
        fleet_api("1.36.0")


def test_institutions_have_a_port_of_their_own_where_flower_has_one():
    said = command(GRPC)
    assert "--fleet-api-type grpc-rere --fleet-api-address 0.0.0.0:9092" in said
    assert "--host 127.0.0.1 --port 8000" in said


@pytest.mark.parametrize(("address", "host"), [("0.0.0.0:9092", "0.0.0.0"), ("[::]:9092", "::")])
def test_the_one_port_of_a_newer_flower_is_the_institutions(address, host):
    said = command(HTTP, address)
    assert f"--host {host} --port 9092" in said
    assert "fleet" not in said
    assert "8000" not in said


def test_an_operator_does_not_open_control_to_institutions(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fleet_api", lambda: HTTP)
    with pytest.raises(LaunchError, match=r"whoever reaches it can start runs: install flwr 1\.39"):
        run_superlink(tmp_path / "dir", tmp_path, "0.0.0.0:9092", "127.0.0.1", 8000)
    assert not (tmp_path / "dir").exists()
