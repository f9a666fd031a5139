"""What README.md and the pages of docs/ say is there, and runs."""

import dataclasses
import pathlib
import re
import shlex
import tomllib

import pytest

import jaxlora
import jaxlora.simulation
import jaxlora.sweeps
from jaxlora.cli import _parser
from jaxlora.outputs import SolveStatus
from jaxlora.sweeps.configuration import ConfigurationError, configuration_of

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: pathlib.Path, language: str) -> list[str]:
    """The fenced code of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The words of every command on every page."""
    shell = "\n".join(block for page in PAGES for block in blocks(page, "sh"))
    lines = shell.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def targets() -> set[str]:
    """The targets of the Makefile that have a line of help."""
    return set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("module", [jaxlora, jaxlora.simulation, jaxlora.sweeps])
def test_every_public_name_is_on_a_page_of_the_api(module):
    text = "\n".join(page.read_text() for page in ROOT.glob("docs/api/*.md"))
    shown = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)", text, re.MULTILINE))
    missing = {name for name in module.__all__ if f"{module.__name__}.{name}" not in shown}
    # What the package itself has too is shown as the package's.
    assert {name for name in missing if f"jaxlora.{name}" not in shown} == set()


def test_page_on_trouble_has_every_word_of_a_status():
    text = (ROOT / "docs/trouble.md").read_text()
    names = [member.name for enum in (jaxlora.Result, jaxlora.Stability) for member in enum]
    names += [str(kink.name) for kink in jaxlora.Kink]
    names += [field.name for field in dataclasses.fields(SolveStatus)]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_sweep_files_are_valid():
    files = [tomllib.loads(block) for page in PAGES for block in blocks(page, "toml")]
    whole = [tables for tables in files if "task" in tables]
    assert len(whole) > 0
    for tables in whole:
        assert configuration_of(tables).plan.design.size > 1
    # The reference has every key that there is at the top.
    reference = max(whole, key=len)
    with pytest.raises(ConfigurationError) as error:
        configuration_of(reference | {"no_such_key": 1})
    known = re.search(r"one of (.*)", str(error.value))
    assert known is not None
    assert set(known[1].split(", ")) == set(reference)


def test_flags_of_every_command_exist():
    of_jaxlora = [words for words in commands() if pathlib.Path(words[0]).name == "jaxlora"]
    for words in of_jaxlora:
        _parser().parse_args(words[1:])
    assert len(of_jaxlora) > 10


def test_targets_of_every_make_exist():
    named = {
        word
        for words in commands()
        if words[0] == "make"
        for word in words[1:]
        if re.fullmatch("[a-z-]+", word)
    }
    assert named > {"predict", "test"}
    assert named <= targets()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.slow
@pytest.mark.usefixtures("keep_settings")
@pytest.mark.parametrize(
    "page", ["README.md", "docs/tour.md", "docs/choosing.md", "docs/trouble.md"]
)
def test_code_runs(page):
    code = blocks(ROOT / page, "python")
    assert code, "nothing to run"
    names = {}
    for block in code:
        exec(block, names)  # an error fails the test
