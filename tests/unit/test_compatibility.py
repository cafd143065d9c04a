import tomllib
from pathlib import Path

import pytest

from ipfl_flower.compatibility import VERSION, End, mismatch

OURS = End("this server", 2, "0.2.0", "upgrade the server")


def theirs(protocol, version="0.1.0"):
    return End.heard("the institution", protocol, version, "upgrade the bundle")


def test_the_version_in_the_sources_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "9.9.9", None])
def test_ends_of_one_protocol_fit_whatever_their_versions(version):
    assert mismatch(theirs(2, version), OURS) is None


@pytest.mark.parametrize(
    ("protocol", "said", "upgrade"),
    [
        (1, "protocol 1 (ipfl-flower 0.1.0)", "upgrade the bundle"),
        (3, "protocol 3 (ipfl-flower 0.1.0)", "upgrade the server"),
        (None, "no numbered protocol (ipfl-flower 0.1.0)", "upgrade the bundle"),
    ],
)
def test_the_end_that_is_behind_is_told_to_upgrade(protocol, said, upgrade):
    assert mismatch(theirs(protocol), OURS) == (
        f"the institution speaks {said}, this server protocol 2 (ipfl-flower 0.2.0): {upgrade}"
    )


@pytest.mark.parametrize("protocol", [True, 2.0, "2", 0, -2, 2**31, [2]])
def test_what_is_no_protocol_is_none(protocol):
    assert theirs(protocol).protocol is None
    assert "no numbered protocol" in mismatch(theirs(protocol), OURS)


@pytest.mark.parametrize("version", [7, "", "1\n\x1b[31m", "x" * 41, ["1"]])
def test_a_version_cannot_write_on_anybodys_terminal(version):
    assert theirs(1, version).version == "of unknown version"
