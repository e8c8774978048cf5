"""Untrusted YAML, JSON and CSV as plain values, with limits on size and depth.

Every reader of text uses this. A document that is damaged, too large, nested too deeply, or that
repeats a key raises `DocumentError`, whatever the library below does.
"""

import csv
import io
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from wsicl_jax.errors import WsiclError
from wsicl_jax.storage.object_path import ObjectPath, Place

LARGEST_BYTES = 2**26
"""Largest file in bytes, unless its reader sets another limit."""

LARGEST_YAML = 2**18
"""Most characters of YAML; the parser needs about a second for them."""

DEEPEST = 60
"""Most levels of nested lists and mappings."""

_MOST_VALUES = 20_000
"""Most values in YAML; an alias counts as the values that it stands for."""

_LONGEST_NUMBER = 100
"""Most characters of a number."""

_LONGEST_VALUE = 80
"""Most characters of a value in a message."""

_BAD_TEXT = re.compile("[\x00\ud800-\udfff]")
"""NUL and surrogates, which file names, tables and terminals cannot contain."""


class DocumentError(WsiclError, ValueError):
    """A document cannot be read. The message has the reason and the line, but not the file."""


class RepeatedKeyError(DocumentError):
    """A key is repeated, so that one of its values would be lost."""


def read_file(path: Place, largest: int = LARGEST_BYTES, what: str = "this kind") -> bytes:
    """All bytes of a regular file, or of an object. `what` names the expected content in messages.

    Raises:
        OSError: it is missing or cannot be read.
        DocumentError: it is larger than `largest` bytes, a pipe or a device, or `path` is no
            valid path.
    """
    if isinstance(path, ObjectPath):
        content = path.read_bytes()
        size = len(content)
    else:
        content, size = _read_regular(path, largest)
    if len(content) > largest:
        raise DocumentError(
            f"{size / 1e6:.0f} MB; a file of {what} has {largest / 1e6:.0f} at most"
        )
    return content


def _read_regular(path: Path, largest: int) -> tuple[bytes, int]:
    """The first bytes of a file, at least one more than `largest` if there are, and its size."""
    try:
        status = path.stat()
    except ValueError:  # NUL or a surrogate
        raise DocumentError("its path has an invalid character") from None
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise DocumentError("is a pipe or a device; expected a file")
    with path.open("rb") as file:
        content = file.read(min(largest, status.st_size) + 1)  # `read` allocates this at once
    return content, max(status.st_size, len(content))


def as_text(content: bytes) -> str:
    """UTF-8 as text, without a byte order mark.

    Raises:
        DocumentError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(f"no text in UTF-8 (line {line})") from None


def parse_yaml(content: str | bytes) -> Any:
    """The value of a YAML document: mappings, lists, text, numbers, booleans and null.

    Dates stay text. Anchors and aliases are allowed; repeated keys are not.

    Raises:
        DocumentError: it is not valid YAML or exceeds a limit; the message begins with the line.
    """
    text = as_text(content) if isinstance(content, bytes) else content
    if len(text) > LARGEST_YAML:
        raise DocumentError(
            f"has {len(text):,} characters; expected at most {LARGEST_YAML:,} of YAML"
        )
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except DocumentError:
        raise
    except yaml.MarkedYAMLError as error:
        parts = (error.context, error.problem)
        mark = error.problem_mark or error.context_mark
        reason = ": ".join(part for part in parts if part)
        raise DocumentError(f"line {mark.line + 1}: {reason}" if mark else reason) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(f"line {line}: {error.reason}") from None
    # The library does not check all escapes and directives.
    except (ValueError, OverflowError, LookupError, RecursionError) as error:
        line = f"line {loader.line + 1}: " if loader else ""
        raise DocumentError(f"{line}no YAML: {_brief(str(error))}") from None
    finally:
        if loader:
            loader.dispose()


def parse_json(content: str | bytes, *, nan: bool = False) -> Any:
    """The value of a JSON document; NaN and Infinity are refused unless `nan` allows them.

    Raises:
        DocumentError: it is not valid JSON or exceeds a limit.
    """
    text = as_text(content) if isinstance(content, bytes) else content
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_repeated_keys,
            parse_int=_integer,
            parse_constant=None if nan else _refuse,
        )
    except DocumentError:
        raise
    except json.JSONDecodeError as error:
        raise DocumentError(f"no JSON: {error}") from None
    except RecursionError:
        raise DocumentError(f"no JSON: {_TOO_DEEP}") from None
    if text.count("[") + text.count("{") > DEEPEST:
        _check_depth(value)
    if "\\u" in text:
        for part in _texts(value):
            if _BAD_TEXT.search(part):
                raise DocumentError(f"{_brief(part)} has an invalid character")
    return value


def parse_csv(text: str) -> Iterator[list[str]]:
    """The rows of comma-separated values, lazily.

    Raises:
        DocumentError: a cell has more than 131,072 characters, or the text contains NUL.
    """
    rows = csv.reader(io.StringIO(text, newline=""))
    if place := _BAD_TEXT.search(text):
        line = text.count("\n", 0, place.start()) + 1
        raise DocumentError(f"line {line}: has an invalid character")
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DocumentError(f"line {rows.line_num}: {error}") from None
        yield row


def checked(schema: TypeAdapter, value: Any) -> Any:
    """The value of a document, validated by a schema.

    Raises:
        DocumentError: it does not fit; the message names the first position that does not.
    """
    try:
        return schema.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = _brief(".".join(map(str, problem["loc"])))[1:-1]
        message = problem["msg"].removeprefix("Value error, ")
        raise DocumentError(f"{where}: {message}" if where else message) from None


_TOO_DEEP = f"lists and mappings are nested more than {DEEPEST} levels deep"


class _Loader(yaml.SafeLoader):
    """Loads mappings, lists and plain values, within the limits."""

    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "seq", "map")
    }
    # Dates stay text: they may be names.
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in ("timestamp", "value")
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str):
        super().__init__(text)
        self._depth = self._values = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}
        """Number of values in a node, and its depth."""
        self._deepest = 0
        """Depth of the node that is being composed."""

    def compose_node(self, parent, index):
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self._sizes:
                raise self._error("an alias is inside its own anchor", mark)
            values, depth = self._sizes[node]
        else:
            before, outer, self._deepest = self._values, self._deepest, 0
            self._depth += 1
            self._check(mark)
            node = super().compose_node(parent, index)
            self._depth -= 1
            values, depth = 1, self._deepest + 1
            self._sizes[node] = self._values - before + 1, depth
            self._deepest = outer
        self._values += values
        self._deepest = max(self._deepest, depth)
        self._check(mark)
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error("a key is a list or a mapping; expected text", key.start_mark)
            if (key.tag, key.value) in seen:
                raise self._error(
                    f"key {_brief(key.value)} is repeated; give it once", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node):
        # With some keys, the library lets a merged value replace the node's own value.
        own, merged = [], []
        for key, value in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                own.append((key, value))
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts:
                if not isinstance(part, yaml.MappingNode):
                    raise self._error("only mappings can be merged by <<", part.start_mark)
                self.flatten_mapping(part)
                merged.append(part.value)
        # Earlier merged mappings take precedence over later ones; own keys over all.
        pairs = {}
        for group in (*reversed(merged), own):
            pairs |= {(key.tag, key.value): (key, value) for key, value in group}
        node.value = list(pairs.values())

    def construct_scalar(self, node):
        if isinstance(node, yaml.ScalarNode):
            if _BAD_TEXT.search(node.value):
                raise self._error("has an invalid character", node.start_mark)
            if not node.tag.endswith(":str") and len(node.value) > _LONGEST_NUMBER:
                raise self._error(
                    f"a number has {len(node.value):,} characters; expected at most "
                    f"{_LONGEST_NUMBER}",
                    node.start_mark,
                )
        return super().construct_scalar(node)

    def construct_text(self, node):
        return self.construct_scalar(node)

    def construct_object(self, node, deep=False):
        try:
            return super().construct_object(node, deep)
        # Such as `!!int x`, for which the library lets Python raise.
        except (ValueError, LookupError, OverflowError, TypeError, AttributeError) as error:
            if isinstance(error, DocumentError):
                raise
            raise self._error(
                f"{_brief(str(node.value))} is no {node.tag.rpartition(':')[2]}", node.start_mark
            ) from None

    def _check(self, mark: yaml.Mark) -> None:
        if self._depth + self._deepest > DEEPEST:
            raise self._error(_TOO_DEEP, mark)
        if self._values > _MOST_VALUES:
            raise self._error(f"has more than {_MOST_VALUES:,} values, aliases counted", mark)

    def _error(self, problem: str, mark: yaml.Mark) -> DocumentError:
        return DocumentError(f"line {mark.line + 1}: {problem}")


_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise RepeatedKeyError(f"key {_brief(repeated)} is repeated in an object; give it once")
    return content


def _integer(text: str) -> int:
    if len(text) > _LONGEST_NUMBER:
        raise DocumentError(
            f"a number has {len(text):,} digits; expected at most {_LONGEST_NUMBER}"
        )
    return int(text)


def _refuse(constant: str) -> Any:
    raise DocumentError(f"{constant} is no number")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        outer = [one for one in level if isinstance(one, list | dict)]
        if not outer:
            return
        level = [part for one in outer for part in (one.values() if type(one) is dict else one)]
    raise DocumentError(f"no JSON: {_TOO_DEEP}")


def _texts(value: Any) -> Iterator[str]:
    rest = [value]
    while rest:
        one = rest.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            yield from one
            rest += one.values()
        elif isinstance(one, list):
            rest += one


def _brief(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}...")
