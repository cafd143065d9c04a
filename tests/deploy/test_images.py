"""The images: what is in them, who they run as, and what they share."""

import json
import subprocess

import pytest
from support.containers import TAG, build, docker, engine_missing

IMAGES = ("server", "console", "supernode", "trainer")

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def images():
    """Build the images; give what the engine says of each."""
    missing = engine_missing()
    if missing is not None:
        pytest.skip(missing)
    ids = {image: build(image) for image in IMAGES}
    return {image: json.loads(docker("image", "inspect", ids[image]))[0] for image in IMAGES}


def has(image: str, module: str) -> bool:
    """Tell whether a container of an image could import a module."""
    code = f"from importlib.util import find_spec; print(find_spec({module!r}) is not None)"
    options = ("--rm", "--read-only", "--network", "none", "--entrypoint", "python")
    return docker("run", *options, f"ipfl-{image}:{TAG}", "-c", code) == "True"


@pytest.mark.parametrize(
    ("image", "module", "there"),
    [
        ("server", "torch", False),
        ("supernode", "torch", False),
        ("trainer", "torch", True),
        ("server", "psycopg", True),
        ("console", "torch", False),
        ("console", "psycopg", True),
        ("server", "server_app", True),
        # Nothing is installed at run time.
        *((image, module, False) for image in IMAGES for module in ("uv", "pip")),
    ],
)
def test_what_is_in_an_image(images, image, module, there):
    assert has(image, module) is there


def test_they_run_as_a_number_and_say_what_they_are(images):
    for image, found in images.items():
        assert found["Config"]["User"] == "10001:10001"
        labels = found["Config"]["Labels"]
        assert labels["org.opencontainers.image.title"] == f"ipfl-{image}"
        assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
        assert labels["org.opencontainers.image.version"] not in ("", "0")
        assert labels["org.opencontainers.image.revision"] not in ("", "unknown")


def test_they_share_the_base_and_the_dependencies(images):
    layers = [found["RootFS"]["Layers"] for found in images.values()]
    base = json.loads(docker("image", "inspect", "python:3.11-slim-bookworm"))[0]["RootFS"][
        "Layers"
    ]
    shared = [same[0] for same in zip(*layers, strict=False) if len(set(same)) == 1]
    assert shared == [*base, shared[-1]]


def test_the_console_adds_next_to_nothing_to_the_servers_layers(images):
    layers = images["server"]["RootFS"]["Layers"]
    assert images["console"]["RootFS"]["Layers"][: len(layers)] == layers
    assert images["console"]["Size"] - images["server"]["Size"] < 10_000


def test_the_console_says_of_itself_whether_it_is_well(images):
    health = images["console"]["Config"]["Healthcheck"]["Test"]
    assert health[-2:] == ["console", "127.0.0.1:8080"]


def test_a_console_without_a_ledger_says_what_is_missing(images):
    tokens = "import secrets; print(secrets.token_hex(32))"
    script = f"python -c '{tokens}' > /tmp/t && exec ipfl console /market/ledger.db"
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--read-only", "--network", "none", "--tmpfs", "/tmp"),
            *("--entrypoint", "sh", f"ipfl-console:{TAG}", "-c"),
            f"{script} --host 0.0.0.0 --operator-token-file /tmp/t",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "no ledger at /market/ledger.db" in done.stderr


def test_the_trainer_reads_the_demos_data(images):
    code = "from ipfl_flower.tasks.digits import *; print(len(read_digits(digits_file())[1]))"
    options = ("--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none")
    said = docker("run", *options, "--entrypoint", "python", f"ipfl-trainer:{TAG}", "-c", code)
    assert said == "1797"


def test_a_trainer_without_its_institution_says_what_is_missing(images):
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--read-only", "--network", "none"),
            *("--tmpfs", "/run/ipfl:uid=10001,mode=0700", f"ipfl-trainer:{TAG}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "/data/institution.toml" in done.stderr
