"""Configurations from YAML, with inheritance and overrides.

A YAML file under `configs/` gives the settings that differ from the defaults. It may name one
other file as `inherits`. `section.key=value` on the command line comes last.
"""

import os
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    TypeAdapter,
    ValidationError,
)

from wsicl_jax.config.ablation import AblationConfig
from wsicl_jax.config.evaluation import SweepConfig
from wsicl_jax.config.experiment import ExperimentConfig
from wsicl_jax.config.fields import SYNTHETIC
from wsicl_jax.config.inference import InferenceConfig
from wsicl_jax.config.preparation import PreparationConfig
from wsicl_jax.config.reading import ReadingConfig
from wsicl_jax.errors import ConfigError, hint, reason
from wsicl_jax.storage.documents import DocumentError, parse_yaml, read_file

_LONGEST_KEY = 200
"""Characters of a key that a message shows."""


def preparation_from_dict(settings: Mapping[str, Any]) -> PreparationConfig:
    """A preparation from plain values. Raises `ConfigError` as `load_config` does."""
    return _validated(PreparationConfig, settings)


def inference_config(**settings: Any) -> InferenceConfig:
    """Settings of a segmenter. Raises `ConfigError` as `load_config` does."""
    return _validated(InferenceConfig, settings)


def reading_config(**settings: Any) -> ReadingConfig:
    """How files of images are read. Raises `ConfigError` as `load_config` does."""
    return _validated(ReadingConfig, settings)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from YAML, with dotted overrides such as `train.steps=100`.

    Raises:
        ConfigError: the file is missing or no YAML mapping; a key is there twice, unknown (what
            may have been meant is named), ill-typed or out of range; `inherits` goes deeper than
            once.
    """
    return config_from_dict(_settings(ExperimentConfig, path, overrides))


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep from YAML, as `load_config` reads an experiment. Raises `ConfigError`."""
    return _validated(SweepConfig, _settings(SweepConfig, path, overrides))


def load_ablation(path: str | Path, overrides: Sequence[str] = ()) -> AblationConfig:
    """Read an ablation from YAML; `base` becomes a path as seen from here.

    Overrides of the ablation itself, such as `output=runs/other`, change it; all others are
    settings that every cell gets. Raises `ConfigError` as `load_config` does.
    """
    names = [own.name for own in fields(AblationConfig)]
    own = [text for text in overrides if re.split(r"[.=]", text)[0] in names]
    ablation = _validated(AblationConfig, _settings(AblationConfig, path, own))
    common = dict(ablation.overrides)
    for override in overrides:
        if override not in own:
            key, value = _parsed(override)
            common[".".join(key)] = value
    return replace(ablation, base=str(Path(path).parent / ablation.base), overrides=common)


def _settings(kind: type, path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    settings = read_settings(Path(path))
    parent = settings.pop("inherits", None)
    if parent is not None:
        if not isinstance(parent, str):
            raise ConfigError(f"{path}: inherits is {reprlib.repr(parent)}; expected a file's name")
        home = os.path.expanduser(parent)  # noqa: PTH111 - leaves ~UNKNOWN
        base = read_settings(Path(path).parent / home)
        if "inherits" in base:
            raise ConfigError(f"{path} inherits {parent}, which inherits again; one level only")
        settings = _merged(kind, base, settings)
    for override in overrides:
        _apply_override(settings, override)
    return settings


def config_from_dict(settings: Mapping[str, Any]) -> ExperimentConfig:
    """An experiment from nested settings. Raises `ConfigError` as `load_config` does."""
    return _validated(ExperimentConfig, settings)


def override_config(
    config: ExperimentConfig,
    overrides: Sequence[str],
    sections: Collection[str] | None = None,
) -> ExperimentConfig:
    """The experiment with dotted overrides, such as `evaluation.contexts=8`.

    With `sections`, only settings of these may be changed.

    Raises:
        ConfigError: as `load_config`, or an override is of another section.
    """
    settings = config_to_dict(config)
    for override in overrides:
        _apply_override(settings, override)
        section = override.partition("=")[0].split(".")[0]
        if sections is not None and section not in sections:
            raise ConfigError(
                f"override {override!r}: only settings of {', '.join(sections)} may be changed here"
            )
    return config_from_dict(settings)


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration as nested plain values: the inverse of `config_from_dict`."""
    return _plain(asdict(config))


def _validated(kind: type, settings: Mapping[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        problems = error.errors()
        # A list with a bad entry is reported as too short as well.
        causes = [p for p in problems if not any(_lies_below(q, p) for q in problems)]
        raise ConfigError("; ".join(_explain(kind, problem) for problem in causes[:3])) from None


def _lies_below(problem: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    deep, shallow = problem["loc"], other["loc"]
    return len(deep) > len(shallow) and deep[: len(shallow)] == shallow


def _explain(kind: type, problem: Mapping[str, Any]) -> str:
    where = [part for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(map(str, where))
    shown = repr(key) if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]!r}..."
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown setting {shown}; {_hint(kind, where)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key and key not in message else message
    given = reprlib.repr(problem["input"])
    return f"{shown[1:-1]} = {given} does not fit: {message[0].lower()}{message[1:]}"


def _hint(kind: type, where: Sequence[Any]) -> str:
    """What may have been meant by an unknown setting: of its section, or of another one."""
    *section, name = map(str, where)
    prefix = ".".join([*section, ""])
    known = [own.name for own in fields(_section_at(kind, where[:-1]))]
    said = hint(name, known, prefix)
    if said.startswith("nearest"):
        return said
    if elsewhere := [key for key in _all_settings(kind) if key.rpartition(".")[2] == name]:
        return f"there is {', '.join(map(repr, elsewhere))}"
    return said


def _all_settings(kind: type, prefix: str = "") -> Iterator[str]:
    for own in fields(kind):
        yield f"{prefix}{own.name}"
        if section := _section_in(own.type):
            number = "" if section is own.type else "0."
            yield from _all_settings(section, f"{prefix}{own.name}.{number}")


def _section_at(kind: type, path: Sequence[Any]) -> type:
    for part in path:
        if not isinstance(part, int):
            kind = _section_in(next(f.type for f in fields(kind) if f.name == part))
    return kind


def _section_in(kind: Any) -> type | None:
    """The section that a setting is, or a list of which it is; None: it is a plain value."""
    while not is_dataclass(kind):
        if not (parts := get_args(kind)):
            return None
        kind = parts[0]
    return kind


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a YAML file gives, not checked for what they are; {} if it is empty.

    Raises:
        ConfigError: the file is missing, cannot be read, or is no mapping in YAML.
    """
    try:
        settings = parse_yaml(read_file(path))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; examples are in configs/") from None
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {reason(error)}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; expected `key: value` lines")
    return settings


def _merged(kind: type, base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **top}
    for section in fields(kind):
        both = base.get(section.name), top.get(section.name)
        if is_dataclass(section.type) and all(isinstance(one, dict) for one in both):
            merged[section.name] = _merged(section.type, *both)
    return merged


def _parsed(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    path = key.split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        return path, parse_yaml(text)
    except DocumentError as error:
        raise ConfigError(
            f"value of override {reprlib.repr(override)} is not valid YAML: {error}"
        ) from None


def _apply_override(settings: dict[str, Any], override: str) -> None:
    path, value = _parsed(override)
    if path[0] == "data" and len(path) > 1:
        data = settings.setdefault("data", SYNTHETIC)
        settings["data"] = [{"store": data}] if isinstance(data, str) else data
    node: Any = settings
    for part, following in zip(path, [*path[1:], None], strict=True):
        if isinstance(node, list):
            if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
                raise ConfigError(
                    f"override {override!r}: {part!r} is no position in a list of {len(node)}"
                )
            part = int(part)
        elif not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {part!r} lies below a single value")
        if following is None:
            node[part] = value
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            node = node[part]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
