"""The decision for oneDNN: which version of jaxlib is trusted, tried, and remembered."""

import json
import sys

import jaxlib
import pytest

from wsicl_jax.model.ops import onednn, onednn_support, onednn_trial

pytestmark = pytest.mark.skipif(
    not onednn_support.available(), reason="jaxlib contains no oneDNN for this machine"
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache, still empty, where this version of jaxlib is not known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onednn_support, "TESTED_JAXLIB", ())
    onednn_support._passes_trial.cache_clear()
    yield tmp_path / "cache" / "wsicl_jax"
    onednn_support._passes_trial.cache_clear()


def in_a_new_process() -> bool:
    onednn_support._passes_trial.cache_clear()
    return onednn_support.available()


@pytest.fixture
def interpreter(monkeypatch, tmp_path):
    """Replaces the program that runs the trial by a shell script, which counts its runs."""

    def replace(script: str) -> None:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\necho >> {tmp_path}/runs\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    replace.runs = lambda: len((tmp_path / "runs").read_text().splitlines())
    return replace


def kept(cache) -> dict:
    (file,) = cache.iterdir()
    return json.loads(file.read_text())


def test_a_tested_jaxlib_is_not_tried(cache, interpreter, monkeypatch):
    interpreter("exit 1")
    monkeypatch.setattr(onednn_support, "TESTED_JAXLIB", (jaxlib.__version__,))
    assert onednn_support.available()
    assert not cache.exists()


def test_an_unknown_jaxlib_is_tried_once_in_a_process_without_own_settings(cache, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--no_such_flag")
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    assert onednn_support.available()
    assert kept(cache)["usable"] is True
    monkeypatch.setattr(sys, "executable", "/no/such/program")
    assert in_a_new_process()


def test_a_jaxlib_that_the_call_ends_is_remembered(cache, interpreter):
    interpreter("kill -SEGV $$")
    assert not onednn_support.available()
    assert not in_a_new_process()
    assert interpreter.runs() == 1
    assert kept(cache) == {"usable": False, "reason": "the process ended with SIGSEGV"}


@pytest.mark.parametrize("script", ["kill -KILL $$", "echo no module >&2; exit 1"])
def test_a_trial_that_another_reason_ends_is_repeated_in_the_next_process(
    cache, interpreter, script
):
    interpreter(script)
    with pytest.warns(UserWarning, match="oneDNN could not be tried"):
        assert not onednn_support.available()
    interpreter("""echo '{"usable": true, "reason": ""}'""")
    assert in_a_new_process()


def test_a_trial_that_never_ends_has_failed(cache, interpreter, monkeypatch):
    monkeypatch.setattr(onednn_support, "_PATIENCE_SECONDS", 0.1)
    interpreter("exec sleep 60")
    assert not onednn_support.available()
    assert "did not end" in kept(cache)["reason"]


@pytest.mark.parametrize("content", ["", "[]", '{"usable": 1}', "[" * 9999])
def test_a_damaged_result_is_made_again(cache, interpreter, content):
    interpreter("""echo '{"usable": true, "reason": ""}'""")
    assert onednn_support.available()
    (file,) = cache.iterdir()
    file.write_text(content)
    assert in_a_new_process()
    assert interpreter.runs() == 2


def test_without_a_cache_to_write_to_the_result_holds_for_this_process(cache, interpreter):
    cache.parent.write_text("a file")
    interpreter("""echo '{"usable": true, "reason": ""}'""")
    assert onednn_support.available() and onednn_support.available()
    assert interpreter.runs() == 1


@pytest.fixture
def tried_here(no_programs_kept, monkeypatch, capsys):
    by_onednn = onednn_trial._by_onednn

    def result() -> dict:
        # Another function, of which JAX has no program yet.
        monkeypatch.setattr(onednn_trial, "_by_onednn", lambda inputs: by_onednn(inputs))
        onednn_trial.main()
        return json.loads(capsys.readouterr().out)

    return result


@pytest.mark.parametrize("wrong", [1.001, float("nan")])
def test_wrong_results_fail_the_trial(tried_here, monkeypatch, wrong):
    right = onednn.convolve

    def only_dilated(x, kernel, padding, **settings):
        value = right(x, kernel, padding, **settings)
        return value * wrong if settings["dilation"] != (1, 1, 1) else value

    monkeypatch.setattr(onednn, "convolve", only_dilated)
    result = tried_here()
    assert result["usable"] is False and "deviate" in result["reason"]


def test_a_call_that_jaxlib_does_not_know_fails_the_trial(tried_here, monkeypatch):
    monkeypatch.setattr(onednn, "_TARGET", "__onednn$unknown")
    result = tried_here()
    assert result["usable"] is False and "refuses" in result["reason"]
