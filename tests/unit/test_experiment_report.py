"""A report of findings: Markdown, charts as files, and the command that makes them."""

import json
from functools import partial
from xml.etree import ElementTree as ET

import pytest

from ipfl_flower.experiment.__main__ import main
from ipfl_flower.experiment.report import About, report
from ipfl_flower.experiment.studies import plots
from ipfl_flower.experiment.studies.catalogue import STUDIES
from ipfl_flower.experiment.studies.finding import (
    Bars,
    Finding,
    Line,
    Lines,
    Table,
    figure,
    mean,
    percent,
    signed,
    spread,
)
from ipfl_flower.experiment.studies.scale import scale

FOUND = Finding(
    name="moon",
    title="The moon (Figure 9)",
    asked="How it went.",
    said=["It went well."],
    tables=[Table("A table", ("what", "how much"), [["a|b", "1"]], "A note.")],
    charts=[
        Lines("moon-lines", "Lines", "of the moon", [1, 2], [Line("a < b", [1.0, None])]),
        Bars("moon-bars", "Bars", "of the moon", {"row": {"x": (1.0, 0.5), "y": (2.0, None)}}),
    ],
    details={"`sea`": ["It was calm.", "It was dry."], "`rock`": []},
)
ABOUT = About(
    command="ipfl experiment --all",
    date="2026-01-01",
    versions=[("numpy", "2.0")],
    seeds=(0, 1),
    quick=True,
    rounds=(3, 8),
    seconds=1.0,
    cpu_seconds=2.0,
    cpu_seconds_of_plays=3.0,
)


def test_a_report_says_how_it_was_made_and_what_was_found():
    text = report([FOUND, FOUND], ABOUT)
    assert "```sh\nipfl experiment --all\n```" in text
    assert "seeds 0, 1" in text
    assert "**A quick run**: 3 to 8 rounds, few samples" in text
    assert "* [The moon (Figure 9)](#the-moon-figure-9)\n  * It went well." in text
    contents, *sections = text.split("\n## The moon (Figure 9)\n")
    assert "calm" not in contents
    details = (
        "* It went well.\n\n### In detail\n\n* `sea`\n  * It was calm.\n  * It was dry.\n\n###"
    )
    assert all(details in section for section in sections)
    assert "| what | how much |\n| --- | --: |\n| a\\|b | 1 |\n\nA note." in text
    assert "![Lines](charts/moon-lines.svg)" in text


def test_charts_are_files_that_need_nothing_else(tmp_path):
    plots.write_charts(FOUND, tmp_path)
    for name in ("moon-lines", "moon-bars"):
        svg = (tmp_path / "charts" / f"{name}.svg").read_text(encoding="utf-8")
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in svg
    assert "a &lt; b" in (tmp_path / "charts" / "moon-lines.svg").read_text(encoding="utf-8")


def test_without_the_extra_there_are_no_pngs(tmp_path, monkeypatch):
    def missing(*_, **__):
        raise plots.PngError("PNGs need resvg_py")

    monkeypatch.setattr(plots, "rasterise", missing)
    plots.write_charts(FOUND, tmp_path)
    assert {path.suffix for path in (tmp_path / "charts").iterdir()} == {".svg"}


def test_numbers_as_texts():
    assert (percent(0.1234), percent(None), percent(float("nan"))) == ("12.3", "–", "–")
    assert (figure(-0.001), signed(-0.001), signed(0.5)) == ("0.00", "+0.00", "+0.50")
    assert (mean([]), mean([1.0, None]), mean([1.0, 2.0])) == (None, None, 1.5)
    assert (spread([0.5], scale=100), spread([1.0, 3.0])) == ("50.0", "2.0 ± 1.4")


def test_the_program_plays_a_study_by_name(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(STUDIES, "scale", partial(scale, institutions=(4,), parameters=200))
    arguments = ["--study=scale", "--quick", f"--output={tmp_path}"]
    assert main(arguments) == 0
    assert "cleared in" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "```sh\nipfl experiment --study=scale --quick\n```" in text
    assert str(tmp_path) not in text
    assert (tmp_path / "charts" / "scale-density.svg").exists()
    found = json.loads((tmp_path / "findings.json").read_text(encoding="utf-8"))
    assert len(found["scale"]["said"]) == 3
    assert found["scale"]["details"] == {}
    assert found["scale"]["measured"][0]["clearings"][0]["edges"] > 0


def test_an_unknown_study_names_those_that_there_are(tmp_path, capsys):
    assert main(["--study=sun", f"--output={tmp_path}"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ipfl experiment: study 'sun' is not known: choose from gates, ")


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_is_named_as_it_is_called(name):
    assert STUDIES[name].__doc__
    assert STUDIES[name].__name__ == name
