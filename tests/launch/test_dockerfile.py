"""The container is built from what lies here, with versions that fit the package."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "launch" / "Dockerfile"


def constraints() -> dict[str, str]:
    lines = (ROOT / "launch" / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_requirement_has_a_version_that_fits_it():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].strip().splitlines()
    requirements = [Requirement(line) for line in lines if not line.strip().startswith("#")]
    versions = constraints()
    for requirement in requirements:
        assert versions[requirement.name.lower()] in requirement.specifier
    assert len(versions) > len(requirements)  # and what they require in turn


def test_what_is_copied_exists_and_reaches_the_build():
    copied = re.findall(r"^COPY (.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line[0] == "!"}
    assert set(names) == kept
    assert all((ROOT / name).exists() for name in names)


def test_the_linter_of_dockerfiles_has_nothing_to_say():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not (program := shutil.which(hadolint) or shutil.which("hadolint")):
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
