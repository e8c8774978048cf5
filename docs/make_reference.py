"""Writes docs/reference/: settings, commands and the Python API, from the code itself.

    python docs/make_reference.py

`tests/test_docs.py` fails where a page is not what this file would write.
"""

import argparse
import ast
import importlib.util
import inspect
import shlex
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import wsicl_jax
from wsicl_jax import cli, config

FOLDER = Path(__file__).parent / "reference"

SECTIONS = {
    "Experiments": (config.ExperimentConfig, "What `wsicl train`, `check` and `eval` read."),
    "Segmenters": (
        config.InferenceConfig,
        "Keyword arguments of `Segmenter.load`; some are options of `wsicl predict`.",
    ),
    "Serving": (config.ServeConfig, "Options of `wsicl serve`."),
    "Conversion": (
        config.PreparationConfig,
        "Options of `wsicl convert`, as a store records them.",
    ),
    "Sweeps": (config.SweepConfig, "What `wsicl sweep` and `wsicl episodes` read."),
    "Ablations": (config.AblationConfig, "What `wsicl ablate` reads."),
}
"""Heading, dataclass, and where its settings are used."""

API = {
    "Segmenting": {
        "wsicl_jax.inference.segmenter": {"Segmenter": ("load", "task")},
        "wsicl_jax.inference.ensemble": {"load_ensemble": ()},
        "wsicl_jax.inference.inputs.example": {"Example": ()},
        "wsicl_jax.inference.task": {
            "Task": (
                "segment",
                "open",
                "stream",
                "add_point",
                "add_box",
                "add_scribble",
                "undo",
                "plan",
            )
        },
        "wsicl_jax.inference.result": {"Segmentation": ("mask", "mask_of", "probability", "save")},
        "wsicl_jax.inference.inputs.request": {"read_context": (), "Context": ()},
        "wsicl_jax.inference.inputs.external": {"read_prompts": ()},
    },
    "Service": {
        "wsicl_jax.client": {
            "Client": ("images", "add_image", "geometry", "new_session", "session"),
            "RemoteSession": (
                "state",
                "set_structures",
                "use",
                "add_point",
                "add_box",
                "add_scribble",
                "remove_prompt",
                "segment",
                "label_map",
                "write_label_map",
                "use_as_example",
                "task",
                "save",
                "delete",
            ),
        },
    },
    "Networks": {
        "wsicl_jax.weights.networks": {"load_model": ()},
        "wsicl_jax.model.dual_branch": {"DualBranch": ("__call__",)},
        "wsicl_jax.weights.file_loading": {"load_weights": (), "import_weights": ()},
        "wsicl_jax.weights.export.export": {"export": ()},
    },
    "Data": {
        "wsicl_jax.data.store": {
            "Store": ("open", "case", "read_image", "read_label"),
        },
    },
    "Experiments": {
        "wsicl_jax.config": {"load_config": (), "override_config": ()},
    },
    "Metrics": {
        "wsicl_jax.metrics.overlap": {"dice": (), "overlap": (), "Overlap": ()},
        "wsicl_jax.metrics.image_quality": {"psnr": (), "ssim": ()},
    },
    "Errors": {
        "wsicl_jax.errors": dict.fromkeys(
            (
                "WsiclError",
                "ConfigError",
                "DataError",
                "PromptError",
                "CheckpointError",
                "MissingExtraError",
            ),
            (),
        ),
    },
}
"""What a program that uses the package needs: heading, module, object, its methods."""

_WIDTH = 88


def pages() -> dict[str, str]:
    """Name and content of each page."""
    return {
        "settings.md": "\n".join(_settings()) + "\n",
        "commands.md": "\n".join(_commands()) + "\n",
        "python.md": "\n".join(_python()) + "\n",
    }


def _head(title: str, reader: str) -> list[str]:
    return [
        "<!-- Written by `make reference`; change the docstrings instead. -->",
        "",
        f"# {title}",
        "",
        f"*For {reader}*",
        "",
    ]


# Settings


def _settings() -> Iterator[str]:
    yield from _head(
        "Settings", "everyone who writes a configuration. Every setting, from the code."
    )
    yield (
        "A YAML file names the settings that differ from their defaults. On the command line, "
        "`section.key=value` changes one."
    )
    for title, (kind, use) in SECTIONS.items():
        yield from ("", f"## {title}", "", use)
        yield from _section(kind, prefix="")


def _section(kind: type, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(kind, include_extras=True)
    rows, nested = [], []
    for field in fields(kind):
        name, hint = prefix + field.name, hints[field.name]
        inner, many = _dataclass_in(hint)
        if inner is None:
            rows.append((name, _type_text(hint), _default_text(field), _meaning(kind, field.name)))
        else:
            nested.append((f"{name}[]." if many else f"{name}.", inner))
    if rows:
        yield from ("", "| setting | type | default | meaning |", "| --- | --- | --- | --- |")
        for name, type_text, default, meaning in rows:
            yield f"| `{name}` | {type_text} | {default} | {meaning} |"
    documented = _documented_elsewhere(kind)
    for name, inner in nested:
        title = name.removesuffix(".")
        if inner in documented:
            yield from ("", f"`{title}` has the settings of [experiments](#{_anchor(title)}).")
            continue
        yield from ("", f"### {title}", "", _one_line(inspect.getdoc(inner) or ""))
        yield from _section(inner, name)


def _documented_elsewhere(kind: type) -> set[type]:
    """Sections of experiments, which sweeps share."""
    if kind is not config.SweepConfig:
        return set()
    hints = typing.get_type_hints(config.ExperimentConfig, include_extras=True)
    return {inner for hint in hints.values() if (inner := _dataclass_in(hint)[0])}


def _anchor(title: str) -> str:
    return title.replace("[]", "").replace(".", "")


def _dataclass_in(hint: Any) -> tuple[type | None, bool]:
    """The settings that a type holds, and whether it is a list of them."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    if is_dataclass(hint):
        return hint, False
    if get_origin(hint) is tuple and is_dataclass(get_args(hint)[0]):
        return get_args(hint)[0], True
    return None, False


def _meaning(kind: type, name: str) -> str:
    # pydantic keeps the docstring of a field only with the class that defines it.
    classes = (c for c in reversed(kind.__mro__) if name in getattr(c, "__dataclass_fields__", ()))
    owner = next(classes)
    return _one_line(owner.__pydantic_fields__[name].description or "")


def _default_text(field: Any) -> str:
    value = field.default
    if value is MISSING:
        value = field.default_factory() if field.default_factory is not MISSING else ""
    description = getattr(value, "default", value)  # of pydantic's own field
    if description is None or description == "":
        return "none" if description is None else "empty"
    return f"`{_plain(description)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_plain(v)}" for k, v in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _type_text(hint: Any) -> str:
    bounds: dict[str, Any] = {}
    while get_origin(hint) is Annotated:
        hint, *metadata = get_args(hint)
        for item in (m for entry in metadata for m in getattr(entry, "metadata", [entry])):
            for bound in ("ge", "gt", "le", "lt", "min_length"):
                if getattr(item, bound, None) is not None:
                    bounds[bound] = getattr(item, bound)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(a) for a in arguments if a is not type(None))
    if origin is Literal:
        values = dict.fromkeys(v for a in arguments for v in (get_args(a) or (a,)))
        return ", ".join(f"`{value}`" for value in values)
    if origin in (tuple, list):
        if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
            return f"list of {_type_text(arguments[0])}"
        same = len(set(map(_type_text, arguments))) == 1
        if same:
            return f"{len(arguments)} x {_type_text(arguments[0])}"
        return "[" + ", ".join(map(_type_text, arguments)) + "]"
    if origin is dict:
        return f"{_type_text(arguments[0])} to {_type_text(arguments[1])}"
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Any: "any"}
    text = names.get(hint, getattr(hint, "__name__", str(hint)))
    if "ge" in bounds and "le" in bounds:
        return f"{text} {bounds['ge']} to {bounds['le']}"
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [f"{signs[k]} {_limit(bounds[k])}" for k in signs if k in bounds]
    return " ".join([text, *limits])


def _limit(value: float) -> str:
    return "2^32" if value == 2**32 else str(value)


# Commands


def _commands() -> Iterator[str]:
    yield from _head(
        "Commands", "everyone who uses the command line. Every command, from the parser."
    )
    yield (
        "`wsicl COMMAND --help` prints the same. `wsicl --version` prints the version. "
        "`wsicl --print-completion bash` prints a completion script for a shell (extra "
        "`completion`). Names that begin with a dash come last, after `--`."
    )
    for name, parser in _parsers(cli.build_parser(), "wsicl"):
        yield from ("", f"## {name}", "", _one_line(parser.description or ""))
        positionals = [a for a in parser._actions if not a.option_strings]
        options = [
            a
            for a in parser._actions
            if a.option_strings and not isinstance(a, argparse._HelpAction)
        ]
        words = [name, *map(_usage, positionals)]
        words += [f"{max(a.option_strings, key=len)} {_value(a)}" for a in options if a.required]
        if any(not a.required for a in options):
            words.append("[OPTION ...]")
        yield from ("", "```text", " ".join(words), "```")
        rows = [(f"`{_value(a)}`", a) for a in positionals]
        rows += [
            (f"`{' '.join(filter(None, [', '.join(a.option_strings), _value(a)]))}`", a)
            for a in options
        ]
        if rows:
            yield from ("", "| argument | meaning |", "| --- | --- |")
            for argument, action in rows:
                yield f"| {argument} | {_help(action)} |"
        if parser.epilog:
            yield from ("", "```bash")
            yield from _examples(parser.epilog)
            yield "```"


def _parsers(
    parser: argparse.ArgumentParser, name: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for group in groups:
        for word, inner in group.choices.items():
            yield from _parsers(inner, f"{name} {word}")
    if not groups:
        yield name, parser


def _usage(action: argparse.Action) -> str:
    value = _value(action)
    return {"*": f"[{value} ...]", "+": f"{value} ...", "?": f"[{value}]"}.get(
        str(action.nargs), value
    )


def _value(action: argparse.Action) -> str:
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.metavar is None:
        if action.choices:
            return "{" + ",".join(map(str, action.choices)) + "}"
        return action.dest.upper()
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return " ".join([action.metavar] * (action.nargs if isinstance(action.nargs, int) else 1))


def _help(action: argparse.Action) -> str:
    text = _one_line(action.help or "")
    if isinstance(action.default, str) and action.default not in text:
        text += f" (default: {action.default})"
    word = text.partition(" ")[0]
    if not word.endswith(":") and not word.startswith("."):
        text = text[:1].upper() + text[1:]
    return f"{text}." if text else ""


def _examples(epilog: str) -> Iterator[str]:
    """The first paragraph; the rest holds for all commands and stands at the head of the page."""
    epilog = epilog.partition("\n\n")[0]
    text = inspect.cleandoc(epilog).removeprefix("examples:").removeprefix("example:")
    for line in text.strip("\n").splitlines():
        yield line.strip() if not line.strip().startswith("--example") else f"    {line.strip()}"


# Python


def _python() -> Iterator[str]:
    yield from _head("Python", "everyone who calls the package. From the docstrings.")
    yield (
        "Types in square brackets are those of "
        "[jaxtyping](https://docs.kidger.site/jaxtyping/): a dtype and the axes."
    )
    for title, modules in API.items():
        yield from ("", f"## {title}")
        for module, objects in modules.items():
            for name, methods in objects.items():
                place = "wsicl_jax" if name in wsicl_jax.__all__ else module
                yield from _object(_definition(module, name), place, methods)


def _definition(module: str, name: str) -> ast.AST:
    """The class or function that `from module import name` gives, also through re-exports.

    The source is parsed, since signatures of imported functions have lost their jaxtyping names.
    """
    for node in ast.parse(Path(importlib.util.find_spec(module).origin).read_text()).body:
        if getattr(node, "name", None) == name:
            return node
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return _definition(node.module, name)
    raise LookupError(f"{module} has no {name}; mend API in {__file__}")


def _object(node: ast.AST, module: str, methods: tuple[str, ...]) -> Iterator[str]:
    yield from ("", f"### {node.name}", "", f"`from {module} import {node.name}`")
    if not isinstance(node, ast.ClassDef):
        yield from ("", "```python", _signature(node, ""), "```")
        yield from ("", *_docstring(node))
        return
    yield from ("", *_docstring(node))
    attributes = list(_attributes(node))
    if attributes:
        yield from ("", "| attribute | type | meaning |", "| --- | --- | --- |")
        for name, annotation, text in attributes:
            yield f"| `{name}` | `{annotation.replace(' | ', ' or ')}` | {text} |"
    inner = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
    for method in methods:
        function = inner[method]
        decorators = [getattr(d, "id", "") for d in function.decorator_list]
        title = node.name if method == "__call__" else f"{node.name}.{method}"
        yield from ("", f"#### {title}")
        if "property" not in decorators:
            yield from ("", "```python", _signature(function, title), "```")
        yield from ("", *_docstring(function))


def _signature(function: ast.FunctionDef, name: str) -> str:
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    parts = [
        _parameter(a, d)
        for a, d in zip(plain, [*defaults, *arguments.defaults], strict=True)
        if a.arg not in ("self", "cls")
    ]
    if arguments.vararg:
        parts.append("*" + _parameter(arguments.vararg, None))
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [
        _parameter(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg:
        parts.append("**" + _parameter(arguments.kwarg, None))
    name = name or function.name
    returns = f" -> {_source(function.returns)}" if function.returns else ""
    line = f"{name}({', '.join(parts)}){returns}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returns}"])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    text = argument.arg
    if argument.annotation is not None:
        text += f": {_source(argument.annotation)}"
    if default is not None:
        text += f" = {ast.unparse(default)}"
    return text


def _source(node: ast.expr) -> str:
    text = node.value if isinstance(node, ast.Constant) else ast.unparse(node)
    return str(text)


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, str, str]]:
    """Public annotated attributes, with the docstrings below them."""
    for statement, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or statement.target.id.startswith("_"):
            continue
        text = ""
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            text = _one_line(str(below.value.value))
        yield statement.target.id, _source(statement.annotation), text


def _docstring(node: ast.AST) -> Iterator[str]:
    """A docstring as Markdown: `Raises:` as a list, indented parts as code."""
    raises = False
    code: list[str] = []
    for line in (ast.get_docstring(node) or "").splitlines():
        if code and not line.strip():
            continue
        if line.strip() in ("Raises:", "Returns:", "Args:"):
            raises = True
            yield from (line.strip().removesuffix(":") + ":", "")
            continue
        if raises and line.startswith("    ") and not line.startswith("     "):
            name, colon, text = line.strip().partition(": ")
            is_name = colon and " " not in name
            yield f"- `{name}`: {text}" if is_name else f"  {line.strip()}"
            continue
        if raises and line.startswith("        "):
            yield f"  {line.strip()}"
            continue
        if line.strip() and not line.startswith(" "):
            raises = False
        if line.startswith("    "):
            code.append(line[4:])
            continue
        if code:
            yield from (*_block(code), "")
            code = []
        yield line
    if code:
        yield from _block(code)


def _block(code: list[str]) -> Iterator[str]:
    yield from ("```python", *code, "```")


def _one_line(text: str) -> str:
    """Text for a cell of a table, which a bar would end."""
    return " ".join(text.split()).replace("|", "&#124;")


def check_commands() -> None:
    """Every example of a command must parse."""
    for _, parser in _parsers(cli.build_parser(), "wsicl"):
        for line in "\n".join(_examples(parser.epilog or "")).replace("\\\n", " ").splitlines():
            if line.startswith("wsicl "):
                cli.parse(shlex.split(line)[1:])


def main() -> None:
    check_commands()
    FOLDER.mkdir(exist_ok=True)
    for name, content in pages().items():
        (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main()
