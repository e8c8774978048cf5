"""Reads the weights of an ONNX file, also of an untrusted one.

It parses the protocol buffer itself, because the ONNX library allocates up to a hundred times the
file's size before any check, and because whoever only loads weights then needs no `onnx` extra.
"""

import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax import numpy as jnp

from wsicl_jax.weights.file_contents import Weights, config_of, refusing
from wsicl_jax.weights.file_digest import DIGEST, check_digest
from wsicl_jax.weights.stored_settings import KEY
from wsicl_jax.weights.tensor_names import Shape, check_shapes, state_dict_shapes

_EXPECTED = "an ONNX file of this network, as `wsicl export` writes it"
_MAX_FIELDS = 20_000
_MAX_TEXT_BYTES = 2**20
_MAX_DIMENSIONS = 8

# Numbers of fields and types in ONNX's published schema (onnx.proto).
_GRAPH, _METADATA = 7, 14
_KEY, _VALUE = 1, 2
_INITIALIZER, _SPARSE = 5, 15
_DIMS, _TYPE, _NAME, _RAW, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 13, 14
_TYPED_DATA = (4, 5, 6, 7, 10, 11)
_DTYPES = {
    1: np.dtype(np.float32),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    16: np.dtype(jnp.bfloat16),
}


def read_onnx(path: str | Path) -> Weights:
    """The network in an ONNX file whose initialisers have the authors' names; as float32.

    Raises:
        CheckpointError: the file is missing, damaged, of another network, or keeps its weights
            in other files, which are never opened.
    """
    path = Path(path)
    with (
        refusing(path, _EXPECTED),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        message = _Message(data)
        tensors: dict[str, _Tensor] = {}
        metadata: dict[str, _Text] = {}
        for number, value in message.fields(0, len(data)):
            if number == _GRAPH:
                for tensor in _initialisers(message, value):
                    if tensor.name in tensors:
                        raise ValueError("two initialisers have the same name")
                    tensors[tensor.name] = tensor
            elif number == _METADATA:
                key, text = _entry(message, value)
                metadata[key] = text
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        config = config_of(shapes)
        check_shapes(state_dict_shapes(config), shapes, str(path))
        loaded = {name: _load(data, tensor) for name, tensor in tensors.items()}
        settings = metadata[KEY].text if KEY in metadata else None
        return Weights(config, loaded, settings, _is_checked(data, metadata.get(DIGEST)))


class _Text(NamedTuple):
    text: str
    bytes: range
    """Positions in the file."""


class _Tensor(NamedTuple):
    name: str
    shape: Shape
    dtype: np.dtype
    bytes: range
    """Positions in the file."""


class _Message:
    """Fields of the protocol-buffer messages in a file.

    A value is a number, or the range of its bytes in the file.
    """

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._left = _MAX_FIELDS

    def fields(self, start: int, stop: int) -> Iterator[tuple[int, int | range]]:
        """Number and value of every field of the message in these bytes."""
        at = start
        while at < stop:
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"it has more than {_MAX_FIELDS} fields")
            tag, at = self._varint(at, stop)
            match tag & 7:
                case 0:  # a number
                    value, at = self._varint(at, stop)
                    yield tag >> 3, value
                    continue
                case 2:  # bytes, or a message
                    length, at = self._varint(at, stop)
                case 1:
                    length = 8
                case 5:
                    length = 4
                case _:
                    raise ValueError("it is not a protocol-buffer message")
            if length > stop - at:
                raise ValueError("a field reaches beyond the end")
            yield tag >> 3, range(at, at + length)
            at += length

    def text(self, value: int | range) -> str:
        """A value that is a text."""
        value = _bytes(value)
        if len(value) > _MAX_TEXT_BYTES:
            raise ValueError(f"a text in it has {len(value)} bytes")
        return self._data[value.start : value.stop].decode()

    def numbers(self, value: int | range) -> list[int]:
        """A value that is one number, or several packed ones."""
        if isinstance(value, int):
            return [value]
        numbers, at = [], value.start
        while at < value.stop and len(numbers) <= _MAX_DIMENSIONS:
            number, at = self._varint(at, value.stop)
            numbers.append(number)
        return numbers

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= stop:
                break
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise ValueError("it is damaged, or not a protocol-buffer message")


def _initialisers(message: _Message, graph: int | range) -> Iterator[_Tensor]:
    graph = _bytes(graph)
    for number, value in message.fields(graph.start, graph.stop):
        if number == _INITIALIZER:
            yield _tensor(message, _bytes(value))
        elif number == _SPARSE:
            raise ValueError("an initialiser is sparse; expected dense ones")


def _tensor(message: _Message, tensor: range) -> _Tensor:
    name, shape, kind, raw = "", [], 0, range(0)
    for number, value in message.fields(tensor.start, tensor.stop):
        if number == _DIMS:
            shape += message.numbers(value)
        elif number == _TYPE and isinstance(value, int):
            kind = value
        elif number == _NAME:
            name = message.text(value)
        elif number == _RAW:
            raw = _bytes(value)
        elif number == _EXTERNAL or (number == _LOCATION and value != 0):
            raise ValueError("an initialiser is stored in another file, which is not opened")
        elif number in _TYPED_DATA:
            raise ValueError("an initialiser is not stored as raw data, as `wsicl export` does")
    if len(shape) > _MAX_DIMENSIONS or any(side >= 2**48 for side in shape):
        raise ValueError("an initialiser has an impossible shape")
    if kind not in _DTYPES:
        raise ValueError(f"initialiser {name[:60]!r} is of type {kind}; expected floats")
    if (size := math.prod(shape) * _DTYPES[kind].itemsize) != len(raw):
        raise ValueError(f"initialiser {name[:60]!r} has {len(raw)} bytes; its shape needs {size}")
    return _Tensor(name, tuple(shape), _DTYPES[kind], raw)


def _entry(message: _Message, entry: int | range) -> tuple[str, _Text]:
    entry = _bytes(entry)
    key, text = "", range(0)
    for number, value in message.fields(entry.start, entry.stop):
        if number == _KEY:
            key = message.text(value)
        elif number == _VALUE:
            text = _bytes(value)
    return key, _Text(message.text(text), text)


def _is_checked(data: mmap.mmap, digest: _Text | None) -> bool:
    """Whether the file has a digest; if it has one, it fits the rest of the file."""
    if digest is None:
        return False
    with memoryview(data) as whole:
        before, after = whole[: digest.bytes.start], whole[digest.bytes.stop :]
        with before, after:
            return check_digest(digest.text, [before, after])


def _load(data: mmap.mmap, tensor: _Tensor) -> np.ndarray:
    flat = np.frombuffer(data[tensor.bytes.start : tensor.bytes.stop], tensor.dtype)
    return flat.reshape(tensor.shape).astype(np.float32)


def _bytes(value: int | range) -> range:
    if isinstance(value, int):
        raise ValueError("a field is a number; expected a message or text")
    return value
