"""The documents name files, headings, commands, options, targets and settings that there are."""

import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
import typer

from ipfl_flower.cli.main import cli
from ipfl_flower.settings import PRESETS, Settings

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
PARTS = "benchmarks|client_app|deploy|docker|docs|ipfl_flower|server_app|tests"
COMMAND = re.compile(r"(?:^|[;|&]|\s)(?:\S*/bin/)?(ipfl|make) (?=[a-z-])(.*)")


def tracked(*patterns):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


DOCUMENTS = tracked("*.md")
SOURCES = tracked("*.py", "*.yml", "*.yaml", "*.sh", "*.toml", "*.Dockerfile", "Makefile", ".ci/*")


@cache
def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def prose(document):
    """Return a document without its fenced blocks, in which `#` and brackets mean other things."""
    return FENCED.sub("", text(document))


def anchors(markdown):
    """Return the anchors of a document's headings, as GitHub makes them."""
    found = set()
    for heading in HEADING.findall(FENCED.sub("", markdown)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        same = sum(re.fullmatch(re.escape(slug) + r"(-\d+)?", name) is not None for name in found)
        found.add(f"{slug}-{same}" if same else slug)
    return found


def wrong_link(document, link):
    """Return what is wrong with a link of a document, or None; others' sites are not asked."""
    if re.match(r"[a-z]+:", link):
        return None
    path, _, anchor = link.partition("#")
    target = ((ROOT / document).parent / unquote(path)).resolve() if path else ROOT / document
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors(text(target.relative_to(ROOT).as_posix())):
        return f"{link}: no such heading"
    return None


def command_lines(document):
    """Yield the lines of a document that call ipfl or make: which of them, and the words after."""
    shells = "".join(
        block for language, block in FENCED.findall(text(document)) if language == "sh"
    )
    lines = shells.replace("\\\n", " ").splitlines()
    lines += [" ".join(span.split()) for span in INLINE.findall(prose(document))]
    lines += re.findall(r"^ {4}(ipfl .*)$", prose(document), re.MULTILINE)
    for line in lines:
        if found := COMMAND.search(re.split(r"\s#(?:\s|$)", line)[0]):
            yield found[1], shlex.split(found[2])


@cache
def ipfl():
    return typer.main.get_command(cli)


def wrong_words(words):
    """Return what ipfl doesn't know among these words: a command, or options."""
    command, path, rest = ipfl(), "ipfl", list(words)
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        below = command.commands.get(rest[0])
        if below is None:
            return [f"{path} {rest[0]}: no such command"]
        path, command = f"{path} {rest.pop(0)}", below
    # `ipfl console LEDGER` is short for one of its commands, and takes that one's options.
    ends = command.commands.values() if isinstance(command, click.Group) else [command]
    known = {option for end in ends for parameter in end.params for option in parameter.opts}
    bare = [word.strip("[]").partition("=")[0] for word in rest]
    # `--trainer…` is a document's short form of the options that begin so.
    short = tuple(word.rstrip("…") for word in bare if word.endswith("…"))
    named = {word.rstrip("…") for word in bare if word.startswith("--")} - {"--help"}
    named -= {name for name in short if any(option.startswith(name) for option in known)}
    return [f"{path} {option}: no such option" for option in sorted(named - known)]


@cache
def make_targets():
    lines = re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", text("Makefile"), re.MULTILINE)
    images = {f"image-{Path(name).stem}" for name in tracked("docker/*.Dockerfile")}
    return {target for line in lines for target in line.split()} | images


def table(document, head):
    """Return the rows of the table that begins with these columns, as cells."""
    part = text(document).split(f"\n{head}", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in part.splitlines()[2:]]


def as_written(name, field):
    """Return a setting's default as docs/reference/settings.md has it."""
    special = {"selection": "mechanism", "payment": "mechanism", "samples-max": "10⁹", "task": ""}
    special["receipt-key"] = "`receipt.key` beside `models-dir`"
    if name in special:
        return special[name]
    if field.is_required():
        return "preset" if name in PRESETS["recommended"] else "–"
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return f"`{field.default}`" if isinstance(field.default, str) else f"{field.default:g}"


def test_the_documents_are_found():
    assert {"README.md", "docs/operate.md", "docs/reference/settings.md"} <= set(DOCUMENTS)
    calls = [program for document in DOCUMENTS for program, _ in command_lines(document)]
    assert calls.count("ipfl") > 100
    assert calls.count("make") > 20


def test_what_is_not_there_is_noticed():
    assert wrong_words(["ledger", "shwo", "LEDGER"]) == ["ipfl ledger shwo: no such command"]
    assert wrong_words(["run", "market.toml", "--again"]) == ["ipfl run --again: no such option"]
    assert wrong_words(["console", "LEDGER", "[--prot", "8080]"]) != []
    assert wrong_words(["doctor", "institution", "DIR", "--trainer…", "--json"]) == []
    assert wrong_words(["doctor", "institution", "DIR", "--terrain…"]) != []
    assert wrong_link("docs/operate.md", "jion.md") == "jion.md: no such file"
    assert wrong_link("docs/operate.md", "join.md#1-aks") == "join.md#1-aks: no such heading"
    assert wrong_link("docs/operate.md", "join.md#1-ask") is None
    assert anchors("# A `b`, c\n## A b c\n```sh\n# d\n```\n") == {"a-b-c", "a-b-c-1"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    links = LINK.findall(INLINE.sub("", prose(document)))
    links += LINK.findall(prose(document))  # and those whose text is code
    assert [wrong for link in links if (wrong := wrong_link(document, link))] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_options_are_ipfls(document):
    lines = [words for program, words in command_lines(document) if program == "ipfl"]
    assert [wrong for words in lines for wrong in wrong_words(words)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_targets_are_the_makefiles(document):
    named = {words[0] for program, words in command_lines(document) if program == "make"}
    assert named - make_targets() == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_are_there(document):
    named = {span for span in INLINE.findall(prose(document)) if re.match(f"({PARTS})/", span)}
    files = [name for name in sorted(named) if re.fullmatch(r"[\w./-]+", name)]
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_documents_that_sources_name_are_there():
    named = {
        (source, link)
        for source in SOURCES
        for link in re.findall(r"\bdocs/[\w/.-]+\.md(?:#[a-z0-9-]+)?", text(source))
    }
    assert len(named) > 30
    assert [item for item in sorted(named) if wrong_link("README.md", item[1])] == []


def test_sections_of_the_mechanism_that_sources_name_are_there():
    sections = set(re.findall(r"^## (\d+)\. ", text("docs/mechanism.md"), re.MULTILINE))
    named = {
        (source, number)
        for source in SOURCES
        for number in re.findall(r"mechanism\.md,? (?:§|section )(\d+)", text(source))
    }
    assert len(named) > 10
    assert [item for item in sorted(named) if item[1] not in sections] == []


def test_the_table_of_settings_has_all_of_them_with_their_defaults():
    fields = {field.alias: field for field in Settings.model_fields.values()}
    written = [
        (name, default)
        for names, default, _ in table("docs/reference/settings.md", "| key |")
        for name in re.findall(r"`([a-z-]+)`", names)
    ]
    assert written == [(name, as_written(name, field)) for name, field in fields.items()]
    assert fields["samples-max"].default == 10**9


def test_the_table_of_presets_is_what_presets_are():
    written = table("docs/reference/settings.md", "| preset | mechanism |")
    columns = ["mechanism", "distance", "centre", "eta", "start", "prox-weight", "distance-weight"]
    assert {name.strip("`"): cells for name, *cells in written} == {
        name: [
            f"{preset[key]:g}" if isinstance(preset[key], float) else preset[key] for key in columns
        ]
        for name, preset in PRESETS.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_markets_in_documents_are_valid(document):
    for language, block in FENCED.findall(text(document)):
        if language == "toml" and "models-dir" in block:
            assert Settings.read(tomllib.loads(block))


@pytest.mark.parametrize("file", tracked("deploy/compose/*.yml"))
def test_a_compose_file_explains_the_variables_that_it_reads(file):
    lines = text(file).splitlines()
    explained = "\n".join(lines[: next(i for i, line in enumerate(lines) if line[:2] == "x-")])
    read = set(re.findall(r"\$\{(\w+)", text(file)))
    assert read
    assert {name for name in read if not re.search(rf"\b{name}\b", explained)} == set()


def _commands(command, path):
    below = command.commands if isinstance(command, click.Group) else {}
    yield path, command
    for name, child in below.items():
        yield from _commands(child, f"{path} {name}")


def test_every_command_argument_and_option_says_what_it_is():
    silent = []
    for path, command in _commands(ipfl(), "ipfl"):
        if not command.help:
            silent.append(path)
        silent += [f"{path} {item.name}" for item in command.params if not item.help]
    assert silent == []
