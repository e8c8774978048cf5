import socket

import pytest

from wsicl_jax.cli import main


def test_without_the_extra_serve_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", str(tmp_path)]) == 2
    assert "pip install 'wsicl_jax[serve]'" in capsys.readouterr().err


def test_a_folder_that_is_none_is_refused(tmp_path, capsys):
    assert main(["serve", "--no-browser", str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_with_what_to_do(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--no-browser", "--port", port, str(tmp_path)]) == 2
    assert "give another --port" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("--port", "70000"), ("--cache-gb", "0"), ("--max-upload-mb", "-1")]
)
def test_limits_that_make_no_sense_are_refused(option, value, tmp_path, capsys):
    try:
        code = main(["serve", "--no-browser", option, value, str(tmp_path)])
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert value in capsys.readouterr().err


def test_a_network_that_is_not_there_is_told_and_leaves_nothing(tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    assert main(["serve", "--no-browser", "--port", "0", "--network", "none", str(folder)]) == 2
    assert "none" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
