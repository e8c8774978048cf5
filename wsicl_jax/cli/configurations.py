"""The verb configs."""

import argparse
import shutil
from pathlib import Path

from wsicl_jax.cli.values import Verb
from wsicl_jax.errors import ConfigError, hint

_FOLDER = Path(__file__).parents[1] / "configs"


def _configs(options: argparse.Namespace) -> int:
    files = {str(file.relative_to(_FOLDER)): file for file in sorted(_FOLDER.rglob("*.yaml"))}
    if options.output:
        _copy(Path(options.output))
        print(options.output)
    elif options.name is None:
        print(*files, sep="\n")
    else:
        name = options.name.removesuffix(".yaml") + ".yaml"
        if name not in files:
            raise ConfigError(f"no configuration {options.name!r} is included; {hint(name, files)}")
        print(files[name].read_text(), end="")
    return 0


def _copy(output: Path) -> None:
    from wsicl_jax.storage.atomic import directory_made, partial

    if output.exists():
        raise ConfigError(f"{output} exists; give a new directory")
    with directory_made(output.absolute().parent):
        temporary = partial(output.absolute().parent, f".{output.name}.")
        try:
            shutil.copytree(_FOLDER, temporary)
            temporary.rename(output)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def add_configs(verb: Verb) -> None:
    configs = verb(
        "configs",
        _configs,
        "list, print or copy the configurations that are included",
        "wsicl configs hippocampus\n         wsicl configs --output configs",
    )
    configs.add_argument("name", nargs="?", help="print this one, such as hippocampus")
    configs.add_argument("--output", metavar="DIR", help="copy all to this new directory")
