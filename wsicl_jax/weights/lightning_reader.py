"""Reads PyTorch Lightning checkpoints, also untrusted ones, without PyTorch.

A checkpoint is a zip with a pickle (`data.pkl`) and one file for each tensor storage. Unpickling
would run any code that the pickle names. This reader runs nothing: a global stays a name, and a
constructed object becomes an `_Inert`. It checks sizes against the file before it allocates memory.
"""

import math
import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from wsicl_jax.weights.file_contents import MAX_STAGES, Weights, config_of, refusing
from wsicl_jax.weights.stored_settings import KEY
from wsicl_jax.weights.tensor_names import check_shapes, state_dict_shapes

_STORAGE_TYPES = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
}

# The published checkpoint's pickle has some 100 kB. In memory, an opcode of one byte can take 64.
_MAX_PICKLE_BYTES = 4 * 2**20
_MAX_BYTE_ORDER_BYTES = 64

_EXPECTED = (
    "a Lightning checkpoint (.ckpt) of the authors' release, or a torch.save zip with a "
    "'state_dict'"
)


def read_lightning(path: str | Path) -> Weights:
    """The network in a Lightning `.ckpt`, or in any file of `torch.save` with a `state_dict`.

    The channels are those of the tensors; `hyper_parameters`, if present, must agree. Tensors of
    any precision come as float32.

    Raises:
        CheckpointError: the file is missing, damaged, of another format or network, or claims
            sizes beyond its own.
    """
    path = Path(path)
    with refusing(path, _EXPECTED), zipfile.ZipFile(path) as archive:
        root = _root(archive)
        if f"{root}byteorder" in archive.namelist():
            order = _stored_bytes(archive, f"{root}byteorder", _MAX_BYTE_ORDER_BYTES)
            if order != b"little":
                raise ValueError(f"byte order is {order!r}; expected little")
        content = _read_pickle(_stored_bytes(archive, f"{root}data.pkl", _MAX_PICKLE_BYTES))
        if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
            raise ValueError("it has no 'state_dict'")
        settings = content.get(KEY)
        if not isinstance(settings, str | None):
            raise ValueError(f"{KEY!r} in it is a {type(settings).__name__}; expected text")
        tensors = content["state_dict"]
        for name, tensor in tensors.items():
            if not isinstance(tensor, _Tensor):
                raise ValueError(f"state_dict entry {name[:60]!r} is a {type(tensor).__name__}")
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        config = config_of(shapes)
        _check_hyper_parameters(content.get("hyper_parameters"), list(config.channels))
        check_shapes(state_dict_shapes(config), shapes, str(path))
        # Tensors may share a storage, but a small file must not fill the memory.
        if sum(tensor.nbytes for tensor in tensors.values()) > 2 * path.stat().st_size:
            raise ValueError("its tensors together are larger than the file")
        loaded = {name: _load(archive, root, tensor) for name, tensor in tensors.items()}
        return Weights(config, loaded, settings, checked=True)  # by the zip's CRC-32


def _root(archive: zipfile.ZipFile) -> str:
    pickles = [n for n in archive.namelist() if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError(f"the zip holds {len(pickles)} pickles (NAME/data.pkl); expected one")
    return pickles[0].removesuffix("data.pkl")


def _stored_bytes(archive: zipfile.ZipFile, name: str, largest: int) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"{name} is compressed; PyTorch stores it uncompressed")
    if info.file_size > largest:
        raise ValueError(f"{name} has {info.file_size} bytes; expected at most {largest}")
    return archive.read(info)


@dataclass(frozen=True, slots=True)
class _Global:
    """Name of a Python object in the pickle; the object is never looked up."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    kind: str
    length: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A validated view of a storage that is not yet read; strides in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        if self.storage.kind not in _STORAGE_TYPES:
            raise ValueError(f"a tensor of the network is a {self.storage.kind}; expected floats")
        return _STORAGE_TYPES[self.storage.kind]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class _Inert(dict):
    """Replaces any object that the pickle constructs; keeps its items alone."""


def _read_pickle(data: bytes) -> Any:
    """The value of a pickle of `torch.save` (protocol 2), without executing anything.

    Keeps text keys alone: no others are needed, and a malicious nested key takes for ever to hash.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def last(count: int) -> list[Any]:
        if count > len(stack):
            raise ValueError("the pickle is damaged")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    for opcode, argument, position in pickletools.genops(data):
        match opcode.name:
            case "PROTO":
                pass
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(last(int(opcode.name[-1]))))
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND":
                _append(stack, last(1))
            case "APPENDS":
                _append(stack, since_mark())
            case "SETITEM":
                _set_items(stack, last(2))
            case "SETITEMS":
                _set_items(stack, since_mark())
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_Global(argument))
            case "BINPERSID":
                stack.append(_storage(*last(1)))
            case "REDUCE" | "NEWOBJ":
                stack.append(_construct(*last(2)))
            case "BUILD":
                last(1)
            case "STOP":
                return stack[-1]
            case _:
                raise ValueError(
                    f"the pickle has {opcode.name} at byte {position}, "
                    "which torch.save does not write"
                )
    raise ValueError("the pickle has no end")


def _append(stack: list[Any], items: list[Any]) -> None:
    if type(stack[-1]) is list:
        stack[-1].extend(items)
    elif type(stack[-1]) is not _Inert:
        raise ValueError(f"the pickle appends to a {type(stack[-1]).__name__}")


def _set_items(stack: list[Any], items: list[Any]) -> None:
    if not isinstance(stack[-1], dict):
        raise ValueError(f"the pickle sets an item of a {type(stack[-1]).__name__}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is str:
            stack[-1][key] = value


def _construct(function: Any, arguments: Any) -> "_Tensor | _Inert":
    if function == _Global("torch._utils _rebuild_tensor_v2"):
        return _tensor(*arguments)
    return _Inert()


def _storage(identity: Any) -> _Storage:
    tag, kind, key, _, length = identity
    if tag != "storage" or type(kind) is not _Global or type(key) is not str:
        raise ValueError("the pickle refers to something other than a storage")
    if not _is_count(length):
        raise ValueError(f"storage {key!r} has no valid length")
    return _Storage(key, kind.name.removeprefix("torch "), length)


def _tensor(storage, offset, shape, strides, *_) -> _Tensor:
    well_formed = (
        type(storage) is _Storage
        and type(shape) is type(strides) is tuple
        and len(shape) == len(strides) <= 8
        and all(map(_is_count, (offset, *shape, *strides)))
    )
    if not well_formed:
        raise ValueError("the pickle describes an impossible tensor")
    tensor = _Tensor(storage, offset, shape, strides)
    size = math.prod(shape)
    reach = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    # The size by itself too, because with a stride of 0 any size stays within the storage.
    if size and (reach > storage.length or size > storage.length):
        raise ValueError(
            f"a tensor of shape {shape} needs {max(reach, size)} elements but its storage "
            f"{storage.key!r} has {storage.length}"
        )
    return tensor


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _load(archive: zipfile.ZipFile, root: str, tensor: _Tensor) -> np.ndarray:
    name = f"{root}data/{tensor.storage.key}"
    declared = tensor.storage.length * tensor.dtype.itemsize
    data = _stored_bytes(archive, name, declared)
    if len(data) != declared:
        raise ValueError(f"{name} has {len(data)} bytes; expected {declared}")
    flat = np.frombuffer(data, tensor.dtype)[tensor.offset :]
    strides = tuple(step * tensor.dtype.itemsize for step in tensor.strides)
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
    return np.array(view, np.float32, order="C")


def _check_hyper_parameters(hyper_parameters: Any, channels: list[int]) -> None:
    values = hyper_parameters if isinstance(hyper_parameters, dict) else {}
    layers = values.get("nb_conv_layers_per_stage", 2)
    if layers != 2:
        text = layers if type(layers) is int else type(layers).__name__
        raise ValueError(
            f"nb_conv_layers_per_stage is {text}; this network has 2 per stage, as published"
        )
    declared = values.get("nb_inner_channels", channels)
    # A list class of some configuration library cannot be read here.
    if isinstance(declared, list | tuple) and list(declared) != channels:
        readable = [c if type(c) is int else type(c).__name__ for c in declared[:MAX_STAGES]]
        raise ValueError(f"nb_inner_channels is {readable} but its tensors have {channels}")
