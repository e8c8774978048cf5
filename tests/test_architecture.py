import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "flax", "optax", "orbax", "tensorstore", "matplotlib", "scipy", "grain", "torch")


def imported_by(code: str) -> set[str]:
    """Heavy packages that a fresh interpreter has imported after running `code`."""
    tell = f"import sys\nprint('imported', *sys.modules.keys() & {set(HEAVY)})"
    command = [sys.executable, "-c", f"{code}\n{tell}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(told.splitlines()[-1].split()[1:])


def test_each_room_imports_only_what_lies_below_it_and_there_is_no_circle():
    command = [
        sys.executable,
        "-c",
        "from importlinter.cli import lint_imports_command as run; run()",
    ]
    command += ["--config", "setup.cfg", "--no-cache"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert " 0 broken" in checked.stdout


def test_importing_the_package_is_light():
    assert imported_by("import wsicl_jax") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_is_light(arguments):
    code = (
        "from wsicl_jax.cli import main\n"
        f"try:\n    main({arguments})\n"
        "except SystemExit as leaving:\n    assert leaving.code == 0\n"
    )
    assert imported_by(code) == set()


def test_settings_and_errors_are_light():
    assert imported_by("import wsicl_jax.config, wsicl_jax.errors") == set()


def test_making_episodes_does_not_import_jax():
    assert not imported_by("import wsicl_jax.data.episodes.sampling") & {
        "jax",
        "flax",
        "optax",
        "orbax",
    }
