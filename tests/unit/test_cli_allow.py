import pytest
from typer.testing import CliRunner

from ipfl_flower.cli.allow import allow_bundle, forbid_bundle
from ipfl_flower.cli.main import cli
from ipfl_flower.cli.processes import LaunchError
from ipfl_flower.door.allowed import AllowedError, read_allowed

ONE, TWO = "ab" * 32, "cd" * 32


def test_a_bundle_is_added_once_and_what_was_there_stays(tmp_path):
    (tmp_path / "allowed").write_text(f"# from the kit\n{ONE}")
    assert allow_bundle(tmp_path, TWO.upper())
    assert not allow_bundle(tmp_path, TWO)
    assert read_allowed(tmp_path) == {ONE, TWO}
    assert (tmp_path / "allowed").read_text() == f"# from the kit\n{ONE}\n{TWO}\n"


def test_the_first_bundle_makes_the_file(tmp_path):
    assert allow_bundle(tmp_path, ONE)
    assert read_allowed(tmp_path) == {ONE}


@pytest.mark.parametrize("wrong", ["", "ab", "g" * 64, "a" * 65, ONE + "\n" + TWO, "../" + ONE])
def test_what_is_no_sha256_is_not_added(tmp_path, wrong):
    with pytest.raises(LaunchError, match="is no SHA-256"):
        allow_bundle(tmp_path, wrong)
    assert not (tmp_path / "allowed").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LaunchError, match="elsewhere is no folder"):
        allow_bundle(tmp_path / "elsewhere", ONE)


def test_a_damaged_file_allows_nothing_and_is_not_written_over(tmp_path):
    damaged = f"{ONE}\n{TWO[:-1]}\n"
    (tmp_path / "allowed").write_text(damaged)
    with pytest.raises(AllowedError, match=r"allowed, line 2: .* is no SHA-256"):
        read_allowed(tmp_path)
    with pytest.raises(LaunchError, match="line 2"):
        allow_bundle(tmp_path, "ef" * 32)
    assert (tmp_path / "allowed").read_text() == damaged


def test_a_missing_file_says_what_fills_it(tmp_path):
    with pytest.raises(AllowedError, match="ipfl join fills it"):
        read_allowed(tmp_path)


def test_a_bundle_is_taken_from_those_that_may_run(tmp_path):
    (tmp_path / "allowed").write_text(f"# from the kit\n{ONE.upper()}  # 0.1\n{TWO}")
    done = CliRunner().invoke(cli, ["allow", str(tmp_path), ONE, "--remove"])
    assert done.output == f"{ONE} may run here no longer\n"
    assert (tmp_path / "allowed").read_text() == f"# from the kit\n{TWO}\n"
    done = CliRunner().invoke(cli, ["allow", str(tmp_path), ONE, "--remove"])
    assert done.output == f"{ONE} was not allowed anyway\n"
    assert read_allowed(tmp_path) == {TWO}


def test_nothing_is_taken_from_a_damaged_file(tmp_path):
    damaged = f"{ONE}\n{TWO[:-1]}\n"
    (tmp_path / "allowed").write_text(damaged)
    with pytest.raises(LaunchError, match="line 2"):
        forbid_bundle(tmp_path, ONE)
    with pytest.raises(LaunchError, match="is no SHA-256"):
        forbid_bundle(tmp_path, "ab")
    assert (tmp_path / "allowed").read_text() == damaged


def test_an_empty_file_allows_nothing(tmp_path):
    (tmp_path / "allowed").write_text("\n# none\n")
    assert read_allowed(tmp_path) == frozenset()
