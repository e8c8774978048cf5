"""Settings from YAML files, with inheritance and overrides.

A YAML file names the settings that differ from their defaults. `inherits: OTHER.yaml` starts from
another file instead, which may inherit in turn. `section.key=value` on the command line comes
last; `key+=value` appends to a list.

Paths in YAML files are relative to the working directory, like paths on the command line. The
exceptions are names of other YAML files (`inherits`, and `base` of an ablation): these are
relative to the file that names them, so that a folder of configurations can be moved.
"""

import os
import re
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from wsicl_jax.config.ablation import AblationConfig
from wsicl_jax.config.evaluation import SweepConfig
from wsicl_jax.config.experiment import ExperimentConfig
from wsicl_jax.config.fields import SYNTHETIC
from wsicl_jax.config.validation import config_from_dict, config_to_dict, validated
from wsicl_jax.errors import ConfigError, reason
from wsicl_jax.storage.documents import DocumentError, parse_yaml, read_file
from wsicl_jax.storage.object_path import Place


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment from YAML, with overrides such as `train.steps=100`.

    Raises:
        ConfigError: a file is missing, is no YAML mapping, or inherits from itself; a key is
            repeated or unknown; a value is ill-typed, out of range or contradicts another.
    """
    return config_from_dict(_settings(ExperimentConfig, path, overrides))


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read a sweep from YAML. Raises `ConfigError` as `load_config` does."""
    return validated(SweepConfig, _settings(SweepConfig, path, overrides))


def load_ablation(path: str | Path, overrides: Sequence[str] = ()) -> AblationConfig:
    """Read an ablation from YAML; its `base` becomes relative to the working directory.

    Overrides of the ablation's own settings, such as `output=runs/other`, change these. All
    other overrides apply to every cell. Raises `ConfigError` as `load_config` does.
    """
    names = [setting.name for setting in fields(AblationConfig)]
    own = [text for text in overrides if re.split(r"[.=+]", text)[0] in names]
    ablation = validated(AblationConfig, _settings(AblationConfig, path, own))
    common = dict(ablation.overrides)
    for override in overrides:
        if override not in own:
            names_of_key, value, appends = _parsed(override)
            key = ".".join(names_of_key) + "+" * appends
            common[key] = [*_as_list(common.get(key, [])), *_as_list(value)] if appends else value
    return replace(ablation, base=str(Path(path).parent / ablation.base), overrides=common)


def override_config(
    config: ExperimentConfig, overrides: Sequence[str], sections: Collection[str] | None = None
) -> ExperimentConfig:
    """The experiment with overrides, such as `evaluation.contexts=8`.

    With `sections`, only settings in these may change.

    Raises:
        ConfigError: as `load_config`, or an override is of another section.
    """
    settings = config_to_dict(config)
    for override in overrides:
        _apply_override(ExperimentConfig, settings, override)
        section = re.split(r"[.=+]", override)[0]
        if sections is not None and section not in sections:
            raise ConfigError(
                f"override {override!r}: only settings of {', '.join(sections)} may be changed here"
            )
    return config_from_dict(settings)


def read_settings(path: Place) -> dict[str, Any]:
    """The settings in one YAML file, not yet validated; {} if it is empty.

    Raises:
        ConfigError: the file is missing, cannot be read, or is no mapping in YAML.
    """
    try:
        settings = parse_yaml(read_file(path))
    except FileNotFoundError:
        raise ConfigError(f"no configuration at {path}; `wsicl configs` lists examples") from None
    except (OSError, DocumentError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {reason(error)}") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} holds a {type(settings).__name__}; expected `key: value` lines")
    return settings


def _settings(kind: type, path: str | Path, overrides: Sequence[str]) -> dict[str, Any]:
    settings = _inherited(kind, Path(path))
    for override in overrides:
        _apply_override(kind, settings, override)
    return settings


def _inherited(kind: type, path: Path, children: Sequence[Path] = ()) -> dict[str, Any]:
    """The settings of a file and of the files that it inherits from."""
    if path.resolve() in children:
        raise ConfigError(f"{path} inherits from itself; remove one `inherits` of {children[0]}")
    settings = read_settings(path)
    parent = settings.pop("inherits", None)
    if parent is None:
        return settings
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: inherits is {reprlib.repr(parent)}; expected a file's name")
    parent_path = path.parent / os.path.expanduser(parent)  # noqa: PTH111 - leaves ~UNKNOWN
    return _merged(kind, _inherited(kind, parent_path, [*children, path.resolve()]), settings)


def _merged(kind: type, base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `top` over those of `base`: sections are merged, other values replaced."""
    merged = {**base, **top}
    for section in fields(kind):
        both = base.get(section.name), top.get(section.name)
        if is_dataclass(section.type) and all(isinstance(one, dict) for one in both):
            merged[section.name] = _merged(section.type, *both)
    return merged


def _parsed(override: str) -> tuple[list[str], Any, bool]:
    """The path of a setting, its value, and whether the value is appended."""
    key, equals, text = override.partition("=")
    path = key.removesuffix("+").split(".")
    if not equals or not all(path):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    try:
        return path, parse_yaml(text), key.endswith("+")
    except DocumentError as error:
        raise ConfigError(
            f"value of override {reprlib.repr(override)} is not valid YAML: {error}"
        ) from None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _default(kind: type, path: Sequence[str]) -> Any:
    """The default of a list; empty if the path leads to no list."""
    for part in path[:-1]:
        kind = next((f.type for f in fields(kind) if f.name == part), None)
        if not is_dataclass(kind):
            return []
    default = next((f.default for f in fields(kind) if f.name == path[-1]), ())
    return list(default) if isinstance(default, tuple) else []


def _apply_override(kind: type, settings: dict[str, Any], override: str) -> None:
    path, value, appends = _parsed(override)
    if appends and path == ["data"]:
        value = [{"store": x} if isinstance(x, str) else x for x in _as_list(value)]
    if path[0] == "data" and (len(path) > 1 or appends):
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
        if following is None and appends:
            held = node.get(part, _default(kind, path)) if isinstance(node, dict) else node[part]
            node[part] = [*_as_list(held), *_as_list(value)]
        elif following is None:
            node[part] = value
        elif isinstance(node, dict):
            node = node.setdefault(part, {})
        else:
            node = node[part]
