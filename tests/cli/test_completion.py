"""Completion scripts for shells."""

import sys
from types import SimpleNamespace

import pytest

from wsicl_jax.cli import main


def test_the_completion_script_of_a_shell_is_printed(monkeypatch, capsys):
    stub = SimpleNamespace(complete=lambda parser, shell: f"# {parser.prog} in {shell}")
    monkeypatch.setitem(sys.modules, "shtab", stub)
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "zsh"])
    assert not stop.value.code
    assert capsys.readouterr().out == "# wsicl in zsh\n"


def test_completion_without_its_extra_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stop:
        main(["--print-completion", "bash"])
    assert stop.value.code == 2
    assert "wsicl_jax[completion]" in capsys.readouterr().err
