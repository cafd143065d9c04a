"""The folder that Flower bundles and ships: our packages and the project file, nothing else."""

import json
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("ipfl_flower", "client_app", "server_app")


def stage_app(folder: Path) -> Path:
    """Copy the app's sources from where they are installed (or checked out) into `folder`.

    Parameters
    ----------
    folder : Path
        Made anew.

    Returns
    -------
    Path
        `folder`, ready for ``flwr run``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for package in PACKAGES:
        shutil.copytree(
            _source(package), folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    ours = _source("ipfl_flower")
    packaged = ours / "pyproject.toml"
    project = packaged if packaged.exists() else ours.parent / "pyproject.toml"
    shutil.copyfile(project, folder / "pyproject.toml")
    return folder


def to_toml(table: Mapping[str, Any]) -> str:
    """Write a flat table: JSON's strings, numbers and booleans are TOML's, too."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def _source(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"package {package} is not installed: reinstall ipfl-flower")
    return Path(spec.origin).parent
