"""Plain values as typed settings, and messages about values that do not fit."""

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from wsicl_jax.config.experiment import ExperimentConfig
from wsicl_jax.errors import ConfigError, hint

Settings = TypeVar("Settings")

_LONGEST_KEY = 200
"""Characters of a key in a message."""

_MAX_PROBLEMS = 3
"""Problems in one message."""


def validated(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Nested plain values as settings of a kind, such as `InferenceConfig`.

    Raises:
        ConfigError: a key is unknown (the message suggests the nearest one), or a value is
            ill-typed, out of range or contradicts another.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problems = error.errors()
        # pydantic reports a list with a bad entry as too short as well.
        causes = [p for p in problems if not any(_lies_below(q, p) for q in problems)]
        raise ConfigError("; ".join(_message(kind, p) for p in causes[:_MAX_PROBLEMS])) from None


def config_from_dict(values: Mapping[str, Any]) -> ExperimentConfig:
    """Nested plain values as an experiment. Raises `ConfigError` as `validated` does."""
    return validated(ExperimentConfig, values)


def config_to_dict(config: Any) -> dict[str, Any]:
    """Settings of any kind as nested plain values: the inverse of `validated`."""
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _lies_below(problem: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    deep, shallow = problem["loc"], other["loc"]
    return len(deep) > len(shallow) and deep[: len(shallow)] == shallow


def _message(kind: type, problem: Mapping[str, Any]) -> str:
    path = [part for part in problem["loc"] if not str(part).startswith("function-")]
    key = ".".join(map(str, path))
    quoted = repr(key) if len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]!r}..."
    if problem["type"] == "unexpected_keyword_argument":
        return f"unknown setting {quoted}; {_suggestion(kind, path)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"{key}: {message}" if key and key not in message else message
    value = reprlib.repr(problem["input"])
    return f"{quoted[1:-1]} = {value} does not fit: {message[0].lower()}{message[1:]}"


def _suggestion(kind: type, path: Sequence[Any]) -> str:
    """The known setting that an unknown one resembles, in its section or in another one."""
    *section, name = map(str, path)
    known = [setting.name for setting in fields(_section_at(kind, path[:-1]))]
    suggestion = hint(name, known, ".".join([*section, ""]))
    if suggestion.startswith("nearest"):
        return suggestion
    if elsewhere := [key for key in _all_settings(kind) if key.rpartition(".")[2] == name]:
        return f"there is {', '.join(map(repr, elsewhere))}"
    return suggestion


def _all_settings(kind: type, prefix: str = "") -> Iterator[str]:
    for setting in fields(kind):
        yield f"{prefix}{setting.name}"
        if section := _section_in(setting.type):
            number = "" if section is setting.type else "0."
            yield from _all_settings(section, f"{prefix}{setting.name}.{number}")


def _section_at(kind: type, path: Sequence[Any]) -> type:
    for part in path:
        if not isinstance(part, int):
            kind = _section_in(next(f.type for f in fields(kind) if f.name == part))
    return kind


def _section_in(kind: Any) -> type | None:
    """The section that a setting is, or holds a list of; None for a plain value."""
    while not is_dataclass(kind):
        if not (parts := get_args(kind)):
            return None
        kind = parts[0]
    return kind
