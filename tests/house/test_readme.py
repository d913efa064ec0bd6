"""What README and docs promise exists: commands, options, files, names, recipe."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import typer.main

from edgestill.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def blocks(language: str) -> list[str]:
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [block for page in PAGES for block in pattern.findall(page.read_text(encoding="utf-8"))]


def edgestill_commands() -> list[list[str]]:
    lines = [line.strip() for block in blocks("sh") for line in block.splitlines()]
    # A model may be BUNDLE#artifact: only a # after a space begins a comment.
    return [shlex.split(re.sub(r"\s#.*", "", line))[1:] for line in lines if line.startswith("edgestill ")]


@pytest.mark.parametrize("words", edgestill_commands(), ids=" ".join)
def test_a_command_in_the_docs_parses(words: list[str]) -> None:
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command)
    while isinstance(command, click.Group):
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
    command.make_context("edgestill", words, resilient_parsing=False)


def test_every_link_to_a_file_leads_somewhere() -> None:
    dead = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if "://" not in target and not target.endswith(".png") and not (page.parent / target).exists():
                dead.append(f"{page.name}: {target}")
    assert not dead


def test_every_python_example_names_what_exists() -> None:
    import importlib

    for block in blocks("python"):
        compile(block, "README.md", "exec")
        for module, names in re.findall(r"^from (edgestill[\w.]*) import (.+)$", block, re.MULTILINE):
            for name in names.split(", "):
                assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_the_two_commands_and_the_llama_options_are_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    install = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert "\nquickstart:" in makefile
    assert "\ntest:" in makefile
    for option in re.findall(r"-D\w+=OFF", makefile):
        assert option in install
