import multiprocessing

import pytest

from ipfl_flower.cli.bundle import stage_app
from ipfl_flower.cli.demo_folder import demo_folder
from ipfl_flower.cli.money import credits_text
from ipfl_flower.cli.processes import LaunchError


def test_a_demo_starts_in_an_empty_folder(tmp_path):
    with demo_folder(tmp_path / "demo") as folder:
        (folder / "logs").mkdir()
        (folder / "ledger.db").write_text("old")
    with demo_folder(tmp_path / "demo") as folder:
        assert [item.name for item in folder.iterdir()] == [".ipfl-demo"]


def test_only_the_owner_can_look_into_the_folder(tmp_path):
    (tmp_path / "demo").mkdir(mode=0o755)
    with demo_folder(tmp_path / "demo") as folder:
        assert folder.stat().st_mode & 0o077 == 0


def test_a_folder_with_files_of_others_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(LaunchError, match=f"{tmp_path} holds files that no demo wrote.*--dir"),
        demo_folder(tmp_path),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(LaunchError, match="demo is a file"), demo_folder(tmp_path / "demo"):
        pass


def _try(path, answer):
    try:
        with demo_folder(path):
            answer.put("ran")
    except LaunchError as error:
        answer.put(str(error))


def test_a_second_demo_in_the_same_folder_is_refused_and_destroys_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    with demo_folder(tmp_path / "demo") as folder:
        (folder / "ledger.db").write_text("precious")
        second = context.Process(target=_try, args=(folder, answer))
        second.start()
        said = answer.get(timeout=60)
        second.join()
        assert (folder / "ledger.db").read_text() == "precious"
    assert "another demo (process" in said
    assert "--dir" in said


def test_the_app_is_staged_with_its_project_file_and_nothing_compiled(tmp_path):
    app = stage_app(tmp_path / "app")
    assert (app / "pyproject.toml").exists()
    assert (app / "server_app" / "main.py").exists()
    assert (app / "ipfl_flower" / "strategy.py").exists()
    assert not list(app.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (0, "0.000000"),
        (1, "0.000001"),
        (-1, "-0.000001"),
        (1_500_000, "1.500000"),
        (-2_000_000, "-2.000000"),
        (1_234_567_890_123, "1,234,567.890123"),
    ],
)
def test_money_is_written_exactly(micro, text):
    assert credits_text(micro) == text
