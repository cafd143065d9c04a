"""The command that writes a report and its slides."""

import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import reports
from support.tampering import attacker

from ipfl_flower.cli.report import report as command
from ipfl_flower.report import ReportError

IPFL = Path(sysconfig.get_path("scripts")) / "ipfl"

path, copy = reports.path, reports.copy


def test_the_command_writes_a_page_as_private_as_the_ledger(path, tmp_path, capsys):
    output = tmp_path / "new" / "report.html"
    command(str(path), output)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert output.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "4 settled rounds, 9 institutions" in capsys.readouterr().out
    command(str(path), output)  # over an earlier one
    with pytest.raises(ReportError, match="is there, and no report"):
        command(str(path), path)
    with pytest.raises(ReportError, match="is a folder"):
        command(str(path), tmp_path)


def test_the_command_writes_slides(path, tmp_path):
    pytest.importorskip("resvg_py", reason="pip install 'ipfl-flower[report]'")
    command(str(path), tmp_path / "report.html", tmp_path / "slides")
    found = sorted(file.name for file in (tmp_path / "slides").iterdir())
    assert found == ["accuracy.png", "balances.png", "graph.png", "utility.png"]
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in (tmp_path / "slides").iterdir())


def test_the_command_says_that_a_ledger_does_not_verify(copy, tmp_path):
    with attacker(copy) as raw:
        raw.execute("UPDATE entries SET amount_micro = amount_micro + 1 WHERE id = 3")
    output = tmp_path / "report.html"
    done = subprocess.run(
        [sys.executable, IPFL, "report", copy, "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "copy.db does NOT verify" in done.stderr
    assert "does NOT verify" in output.read_text(encoding="utf-8")
