"""Documents from anywhere: what is endless, ambiguous or odd is refused at once, with its line."""

import os
import time

import pytest
from pydantic import TypeAdapter

from wsicl_jax.storage.documents import (
    DEEPEST,
    LARGEST_YAML,
    DocumentError,
    RepeatedKeyError,
    checked,
    parse_csv,
    parse_json,
    parse_yaml,
    read_file,
)

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGED = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)

NO_YAML = {
    "billion laughs": (LAUGHS, "line 5: has more than 20,000 values, aliases counted"),
    "billion laughs by merging": (MERGED, "aliases counted"),
    "an alias of itself": ("a: &a [*a]", "line 1: an alias is inside its own anchor"),
    "brackets": ("a: 1\nb: " + "[" * 50_000, "line 2: lists and mappings are nested"),
    "braces": ("{a: " * 50_000, "nested"),
    "dashes": ("- " * 50_000, "nested"),
    "chained aliases": (
        "".join(f"a{i}: &a{i} {'[' * 40}{f'*a{i - 1}' if i else ''}{']' * 40}\n" for i in range(9)),
        "line 2: lists and mappings",
    ),
    "a long number": ("a:\n  b: " + "9" * 6000, "line 2: a number has 6,000 characters"),
    "a long number of base 16": ("a: 0x" + "f" * 6000, "a number has 6,002 characters"),
    "half a character": ('a: "\\ud800"', "line 1: has an invalid character"),
    "NUL by its escape": ('a: 1\nb: "\\0"', "line 2: has an invalid character"),
    "NUL": ("a: \0", "line 1: special characters"),
    "beyond Unicode": ('a: "\\U00110000"', "line 1: no YAML"),
    "a long version": (f"%YAML {'9' * 6000}.1\n--- a", "line 1: no YAML"),
    "a key twice": ("a: 1\nb: 2\na: 3", "line 3: key 'a' is repeated"),
    "a key twice, deep": ("a:\n  b: {c: 1, c: 2}", "line 2: key 'c' is repeated"),
    "a list as key": ("? [a]\n: b", "a key is a list"),
    "an object of Python": ("a: !!python/object:os.system x", "line 1: could not determine"),
    "no number": ("a: !!int x", "line 1: 'x' is no int"),
    "another document": ("a: 1\n---\nb: 2", "another document"),
    "no UTF-8": (b"a: 1\nb: \xff", r"no text in UTF-8 \(line 2\)"),
    "too long": ("a: " + "x" * LARGEST_YAML, "expected at most"),
}


@pytest.mark.parametrize(("text", "message"), NO_YAML.values(), ids=NO_YAML.keys())
def test_yaml_out_of_bounds_is_refused_at_once_with_its_line(text, message):
    start = time.process_time()
    with pytest.raises(DocumentError, match=message):
        parse_yaml(text)
    assert time.process_time() - start < 5


def test_yaml_as_people_write_it_is_read():
    text = "a: &x {b: 1, c: [1.5, true, null]}\nd: {<<: *x, b: 2}\ne: *x\nf: 2024-13-01\n"
    same = {"b": 1, "c": [1.5, True, None]}
    assert parse_yaml(text) == {"a": same, "d": same | {"b": 2}, "e": same, "f": "2024-13-01"}
    assert parse_yaml("\ufeffa: ä".encode()) == {"a": "ä"}
    assert parse_yaml("") is None


def test_a_merged_mapping_may_be_merged_again():
    text = "p: {q: &a {<<: &z {x: 1}, x: 2}}\nb: {<<: *a}"
    assert parse_yaml(text) == {"p": {"q": {"x": 2}}, "b": {"x": 2}}
    assert parse_yaml("a: &a {x: 1}\nb: &b {x: 2, y: 3}\nc: {<<: [*a, *b]}")["c"] == {
        "x": 1,
        "y": 3,
    }
    assert parse_yaml("=: =") == {"=": "="}


NO_JSON = {
    "deep": ("[" * 100_000, "no JSON: lists and mappings"),
    "deep and whole": ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "no JSON: lists and mappings"),
    "cut": ('{"a": [', "no JSON: .*line 1"),
    "a key twice": ('{"a": 1, "a": 2}', "key 'a' is repeated"),
    "a long number": ("9" * 6000, "a number has 6,000 digits"),
    "half a character": ('["\\ud800"]', "an invalid character"),
    "half a character in a key": ('{"\\udfff": 1}', "an invalid character"),
    "NUL": ('{"a": "x\\u0000.nii"}', "an invalid character"),
    "no UTF-8": (b'{"a": "\xff"}', "no text in UTF-8"),
    "NaN": ("NaN", "NaN is no number"),
}


@pytest.mark.parametrize(("text", "message"), NO_JSON.values(), ids=NO_JSON.keys())
def test_json_out_of_bounds_is_refused(text, message):
    with pytest.raises(DocumentError, match=message):
        parse_json(text)


def test_json_as_programs_write_it_is_read():
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2.5, "\\ud83d\\ude00"]}') == {"a": [1, 2.5, "😀"]}
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)
    assert parse_json("[Infinity]", nan=True) == [float("inf")]
    with pytest.raises(RepeatedKeyError):
        parse_json('{"a": {"b": 1, "b": 1}}')


@pytest.mark.parametrize("text", ["a,b\n" + "x" * 200_000, "a,b\n1,\0", 'a\n"' + "y" * 140_000])
def test_a_table_with_an_endless_cell_or_nul_is_refused_with_its_line(text):
    with pytest.raises(DocumentError, match="line 2: "):
        list(parse_csv(text))


def test_a_table_may_have_line_breaks_in_quotes():
    assert list(parse_csv('a,"b\nc"\r\nd,e')) == [["a", "b\nc"], ["d", "e"]]


def test_only_files_of_bearable_size_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 11)
    assert read_file(tmp_path / "a", 11) == b"x" * 11
    with pytest.raises(DocumentError, match="MB; a file of this kind has 0 at most"):
        read_file(tmp_path / "a", 10)
    with pytest.raises(DocumentError, match="an invalid character"):
        read_file(tmp_path / "a\0b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DocumentError, match="a pipe or a device"):
        read_file(tmp_path / "pipe")


def test_what_does_not_fit_a_schema_is_named_with_its_place():
    schema = TypeAdapter(dict[str, list[int]])
    with pytest.raises(DocumentError, match=r"^a\.1: .*integer"):
        checked(schema, {"a": [1, "x"]})
