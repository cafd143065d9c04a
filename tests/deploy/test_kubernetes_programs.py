"""What the Kubernetes manifests and their guide tell programs to do is what these take."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
import typer
from support.manifests import GUIDE, OVERLAYS, ROOT, container, item, kind, pod, space, workloads

from ipfl_flower.cli.main import cli
from ipfl_flower.settings import Settings
from ipfl_flower.trainer.institution import _File


def untaken(words):
    """Return what `ipfl` doesn't take of a command: its name, an option, or one that it lacks."""
    command, context = typer.main.get_command(cli), click.Context(click.Command("ipfl"))
    words = list(words)
    while isinstance(command, click.Group):
        name = words.pop(0)
        command = command.get_command(context, name)
        if command is None:
            return [f"no command {name}"]
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    known = {option for each in command.params for option in [*each.opts, *each.secondary_opts]}
    required = [each.opts for each in command.params if each.required and each.opts[0][0] == "-"]
    return sorted(given - known) + [opts[0] for opts in required if not given & set(opts)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_runs_a_command_that_there_is(overlay, rendered):
    for each in [each for found in workloads(rendered[overlay]) for each in found.containers]:
        program, *arguments = each["command"]
        if program == "ipfl":
            assert untaken(arguments) == [], each["command"]
        else:
            assert each["command"][:2] == ["sh", "/etc/ipfl/run.sh"]


def test_every_command_of_the_guide_is_one_that_there_is():
    text = GUIDE.replace("\\\n", " ")
    commands = re.findall(r"^ipfl (.*)$|[^`\w]ipfl ([a-z].*)$|`ipfl ([^`]+)`", text, re.MULTILINE)
    words = [shlex.split(next(filter(None, found)), comments=True) for found in commands]
    # In prose a command may be named without what it takes.
    wrong = [(each, untaken(each)) for each in words if len(each) > 2]
    assert len(words) > 10
    assert [(each, found) for each, found in wrong if found] == []


def test_a_command_that_there_is_not_is_found():
    assert untaken(["run", "market.toml", "--superlink=market"]) == []
    assert untaken(["run", "market.toml", "--superlnk=market"]) == ["--superlnk"]
    assert untaken(["ledger", "forget", "ledger.db"]) == ["no command forget"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_probe_is_a_program_that_there_is(overlay, rendered):
    from ipfl_flower.cli import health  # noqa: PLC0415

    probes = [
        each[probe]["exec"]["command"]
        for found in workloads(rendered[overlay])
        for each in found.containers
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        if probe in each
    ]
    assert probes
    for python, option, given, *arguments in probes:
        assert python == "python"
        if option == "-c":
            compile(given, "probe", "exec")
        else:
            assert (option, given) == ("-m", health.__name__)
            health._parser().parse_args(arguments)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_read_and_name_folders_that_are_mounted(overlay, rendered):
    found = 0
    for settings in kind(rendered[overlay], "ConfigMap"):
        if "market.toml" in settings["data"]:
            values = tomllib.loads(settings["data"]["market.toml"])
            read = Settings.read(values)
            folders = [values["models-dir"], values["initial-model"]]
            assert read.ledger.startswith(("/srv/market/", "postgresql+psycopg:///"))
            assert all(Path(folder).is_relative_to("/srv/market") for folder in folders)
            run = container(rendered[overlay], "run", "operator")
            assert run["command"][2] == values["initial-model"]
            for name in ("executor", "run"):
                each = container(rendered[overlay], name, "operator")
                assert "/srv/market" in [mount["mountPath"] for mount in each["volumeMounts"]]
        elif "institution.toml" in settings["data"]:
            read = _File.model_validate(tomllib.loads(settings["data"]["institution.toml"]))
            assert read.name == space(settings)
            assert Path(read.state_dir).is_relative_to("/var/lib/ipfl")
        else:
            continue
        found += 1
    assert found == (4 if overlay == "demo" else 1)


def test_flowers_connection_is_the_superlink_beside_it(rendered):
    operator = pod(rendered["operator"], "operator")
    superlink, executor, run = (
        container(rendered["operator"], name, "operator")
        for name in ("superlink", "executor", "run")
    )
    [config] = [c for c in kind(rendered["operator"], "ConfigMap") if "config.toml" in c["data"]]
    connection = tomllib.loads(config["data"]["config.toml"])["superlink"]["market"]
    host, port = connection["address"].split(":")
    assert {f"--host={host}", f"--port={port}"} <= set(superlink["command"])
    assert f"--runtime={connection['address']}" in executor["command"]
    [mount] = [m for m in run["volumeMounts"] if m["mountPath"] == "/run/ipfl"]
    folder, file = connection["root-certificates"].rsplit("/", 1)
    assert folder == mount["mountPath"]
    assert [i["path"] for i in operator.volumes()[mount["name"]]["secret"]["items"]] == [file]
    # The private key is the SuperLink's alone.
    keys = {
        each["name"]
        for each in operator.containers
        for m in each["volumeMounts"]
        if "server.key" in str(operator.volumes()[m["name"]])
    }
    assert keys == {"superlink"}


def test_the_supernode_dials_the_trainers_service(rendered):
    objects = rendered["institution"]
    [given] = [a for a in container(objects, "supernode")["command"] if a.startswith("--trainer=")]
    name, port = given.removeprefix("--trainer=").split(":")
    [dialled] = item(objects, "Service", name)["spec"]["ports"]
    assert dialled["port"] == int(port)
    assert (
        f"--listen=0.0.0.0:{container(objects)['ports'][0]['containerPort']}"
        in container(objects)["command"]
    )
    # The certificate names what is dialled: by the SuperNode, and by the probe.
    [made] = [line for line in GUIDE.splitlines() if line.startswith("ipfl certs trainer")]
    words = shlex.split(made)
    hosts = {words[i + 1] for i, word in enumerate(words) if word == "--host"}
    assert hosts == {name, "localhost"}


def test_the_secrets_are_made_from_files_that_the_guide_makes(tmp_path):
    made = re.findall(r"^ipfl (certs .*)$", GUIDE, re.MULTILINE)
    for command in made:
        subprocess.run(
            [
                sys.executable,
                "-c",
                "from ipfl_flower.cli.main import app; app()",
                *shlex.split(command),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=True,
            timeout=60,
        )
    wanted = re.findall(r"--from-file=((?:certificates|tls)/\S+)", GUIDE)
    assert len(made) == 2
    assert len(wanted) == 10
    assert [file for file in wanted if not (tmp_path / file).is_file()] == []
