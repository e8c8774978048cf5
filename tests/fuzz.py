"""Damaged files for readers: mutants of valid files, read in a child process with limits.

    def read(path: Path) -> object: ...  # of a module that can be imported

    def test_...(tmp_path):
        valid = [{"a.mhd": b"...", "a.raw": b"..."}]
        assert not failures(read, valid, tmp_path, count=50)

A seed is one or several files that belong together; `read` gets the first. A reader may succeed or
raise the package's own error, within `SECONDS` and `GIGABYTES`.
"""

import gzip
import multiprocessing
import os
import random
import re
import resource
import shutil
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from wsicl_jax.errors import WsiclError

SECONDS = 5.0
"""Most time of the processor for one mutant."""

GIGABYTES = 1.0
"""Most memory for one mutant, beside what the child needs before the first."""

_HANG = 4 * SECONDS
"""Most time by the clock: other processes may be busy too."""

_START = 120.0
"""Most time by the clock until a child has imported the reader."""

_MEMORY = Path("/dev/shm")
"""File system in memory, where mutants are written: a disk takes most of the time."""

_WORDS = (
    *(b"0", b"-1", b"1", b"1e308", b"1e-320", b"nan", b"inf", b"-inf", b"1e400", b"0x10", b"1_0"),
    *(b"2147483647", b"-2147483648", b"4294967296", b"9223372036854775808", b"9" * 300),
    *(b"65536", b"100000", b"1.5", b"true", b"null", b"[]", b"{}", b'""', b"..", b"/", b"~", b" "),
    *(b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b"%s%n"),
    *("\u0663".encode(), "\u00e9\U0001f600".encode(), b"2024-13-45", b"<<: *a", b"&a ", b"!!"),
)
"""Replacements of numbers and words."""

_PATTERNS = {
    "<i2": (0, -1, 0x7FFF),
    "<i4": (0, 1, -1, 0x7FFFFFFF, 0x10000),
    "<i8": (0, -1, 0x7FFFFFFFFFFFFFFF),
}
_FLOATS = ("nan", "inf", "-inf", "0", "1e38", "1e-38", "-1")

_HEADER = 2048
"""Most mutations change these first bytes, which describe the rest."""


class Failure(NamedTuple):
    """A mutant at which a reader failed."""

    number: int
    """The mutant's number, for `mutant`."""
    fault: str
    """What the reader did."""
    folder: Path
    """The folder of its files."""

    def __str__(self) -> str:
        return f"mutant {self.number}: {self.fault} ({self.folder})"


def failures(
    read: Callable[[Path], object],
    valid: Sequence[Mapping[str, bytes]],
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    words: Sequence[bytes] = (),
) -> list[Failure]:
    """Give `count` mutants of valid seeds to a reader; the mutants at which it fails.

    `read` is a function of a module, so that another process can import it. `words` are further
    replacements, such as names of fields. The same arguments give the same mutants. A mutant that
    kills or hangs its process is a failure, and the next one gets another process.
    """
    context = multiprocessing.get_context("spawn")
    failed: list[Failure] = []
    number = 0
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else folder) as work:
        while number < count:
            ours, theirs = context.Pipe()
            child = context.Process(
                target=_work,
                args=(theirs, read, valid, Path(work), number, count, seed, tuple(words)),
            )
            child.start()
            theirs.close()
            number = _follow(ours, child, number, count, failed, Path(work), folder)
            ours.close()
            child.kill()
            child.join()
    return failed


def _follow(
    ours: Connection,
    child: multiprocessing.process.BaseProcess,
    number: int,
    count: int,
    failed: list[Failure],
    work: Path,
    folder: Path,
) -> int:
    """Receive the results of one child until it ends; the number of the next mutant."""

    def keep(fault: str) -> None:
        kept = folder / f"failed-{number}"
        with suppress(OSError):
            shutil.copytree(work / str(number), kept, dirs_exist_ok=True)
        failed.append(Failure(number, fault, kept))

    if not ours.poll(_START):
        raise TimeoutError("a child did not import the reader in time")
    try:
        assert ours.recv() == "ready"
    except EOFError:
        child.join()
        raise RuntimeError("a child could not import the reader") from None
    while number < count:
        try:
            if not ours.poll(_HANG):
                keep(f"did not end within {_HANG:g} s")
                return number + 1
            fault = ours.recv()
        except EOFError:
            child.join()
            keep(f"killed its process, exit code {child.exitcode}")
            return number + 1
        if fault:
            keep(fault)
        number += 1
    return number


def _work(
    theirs: Connection,
    read: Callable[[Path], object],
    valid: Sequence[Mapping[str, bytes]],
    work: Path,
    first: int,
    count: int,
    seed: int,
    words: tuple[bytes, ...],
) -> None:
    """Read mutants one after another, and send the fault of each; empty: none."""
    warm = work / "valid"
    for files in valid:
        with suppress(WsiclError):
            read(_written(files, warm))
        shutil.rmtree(warm)
    with suppress(OSError):  # the limit concerns address space
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        bound = pages * resource.getpagesize() + int(GIGABYTES * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Native libraries write a message for every mutant.
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    theirs.send("ready")
    for number in range(first, count):
        place = work / str(number)
        path = _written(mutant(valid, number, seed=seed, words=words), place)
        start = time.process_time()
        fault = ""
        try:
            read(path)
        except WsiclError:
            pass
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{type(error).__name__}: {str(error)[:200]} at {where.filename}:{where.lineno}"
        took = time.process_time() - start
        if not fault and took > SECONDS:
            fault = f"took {took:.1f} s"
        theirs.send(fault)
        if not fault:
            shutil.rmtree(place, ignore_errors=True)


def _written(files: Mapping[str, bytes], folder: Path) -> Path:
    for place in {(folder / name).parent for name in files}:
        place.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder / next(iter(files))


def mutant(
    valid: Sequence[Mapping[str, bytes]],
    number: int,
    *,
    seed: int = 0,
    words: Sequence[bytes] = (),
) -> dict[str, bytes]:
    """The files of a mutant, the first one as the first of its seed."""
    draw = random.Random(f"{seed}/{number}")
    files = dict(draw.choice(valid))
    names = list(files)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
        name = names[0] if draw.random() < 0.6 else draw.choice(names)
        if name not in files:
            continue
        if len(names) > 1 and name != names[0] and draw.random() < 0.05:
            del files[name]
            continue
        files[name] = _mutated(files[name], draw, (*_WORDS, *words))
    return files


def _mutated(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    if content[:2] == b"\x1f\x8b" and draw.random() < 0.7:
        # The content, under a valid checksum.
        with suppress(OSError, EOFError, zlib.error):
            inside = gzip.decompress(content)
            return gzip.compress(_mutated(inside, draw, words), 1, mtime=0)
    how = draw.choice((*_OF_BYTES, *_OF_TEXT, *_OF_TEXT) if _is_text(content) else _OF_BYTES)
    return how(content, draw, words)


def _is_text(content: bytes) -> bool:
    start = content[:64]
    return sum(32 <= byte < 127 or byte in b"\r\n\t" for byte in start) > 0.9 * len(start)


def _place(content: bytes, draw: random.Random) -> int:
    near = min(len(content), _HEADER) if draw.random() < 0.8 else len(content)
    return draw.randrange(near) if near else 0


def _span(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = _place(content, draw)
    return start, min(len(content), start + draw.choice((1, 2, 4, 8, 32, 256, 4096)))


def _flip(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8, 64)) if content else 0):
        changed[_place(content, draw)] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _noise(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    start, stop = _span(content, draw)
    return content[:start] + draw.randbytes(stop - start) + content[stop:]


def _number(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    """A binary number in place of another."""
    import numpy as np

    if draw.random() < 0.7:
        kind = draw.choice(list(_PATTERNS))
        value = np.array(draw.choice(_PATTERNS[kind]), kind)
    else:
        value = np.array(float(draw.choice(_FLOATS)), draw.choice(("<f4", "<f8")))
    raw = value.tobytes() if draw.random() < 0.7 else value.byteswap().tobytes()
    start = _place(content, draw) // 2 * 2
    return content[:start] + raw + content[start + len(raw) :]


def _cut(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    return content[: _place(content, draw)]


def _drop(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    start, stop = _span(content, draw)
    return content[:start] + content[stop:]


def _repeat(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    start, stop = _span(content, draw)
    times = draw.choice((2, 10, 1000))
    return content[:stop] + content[start:stop][:256] * times + content[stop:]


def _move(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    start, stop = _span(content, draw)
    rest = content[:start] + content[stop:]
    to = _place(rest, draw)
    return rest[:to] + content[start:stop] + rest[to:]


def _append(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    return content + draw.choice((b"\x00", b"9", b"\n", draw.randbytes(1))) * draw.choice(
        (1, 100, 100_000)
    )


def _insert(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    place = _place(content, draw)
    return content[:place] + draw.choice(words) + content[place:]


def _replace(content: bytes, draw: random.Random, words: Sequence[bytes], what: str) -> bytes:
    found = list(re.finditer(what.encode(), content[:65536]))
    if not found:
        return _insert(content, draw, words)
    old, other = draw.choice(found), draw.choice(found)
    new = other[0] if draw.random() < 0.3 else draw.choice(words)
    return content[: old.start()] + new + content[old.end() :]


def _figure(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    """Another number in text, or the same one a little larger or much."""
    found = list(re.finditer(rb"-?\d+", content[:65536]))
    if found and draw.random() < 0.4:
        old = draw.choice(found)
        value = int(old[0][:18])
        new = draw.choice((value + 1, value - 1, -value, value * 1000, value * 10**12))
        return content[: old.start()] + str(new).encode() + content[old.end() :]
    return _replace(content, draw, words, r"-?\d+(\.\d+)?(e[-+]?\d+)?")


def _word(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    return _replace(content, draw, words, r"[^\s,:=\[\]{}()\"']+")


def _line(content: bytes, draw: random.Random, words: Sequence[bytes]) -> bytes:
    """A line dropped, doubled, exchanged, or a long or odd one put in."""
    lines = content.split(b"\n")
    place = draw.randrange(min(len(lines), 100))
    other = draw.randrange(min(len(lines), 100))
    how = draw.randrange(6)
    if how == 0:
        del lines[place]
    elif how == 1:
        lines.insert(place, lines[other])
    elif how == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif how == 3:
        name = lines[other].split(b":")[0].split(b"=")[0][:80]
        mark = draw.choice((b": ", b":=", b" = ", b""))
        lines.insert(place, name + mark + draw.choice(words))
    elif how == 4:
        length = draw.choice((300, 1000, 2000, 5000, 70_000, 1_000_000))
        lines.insert(place, draw.choice((b"", b"foo: ", b"a = ", b"# ")) + b"9" * length)
    else:
        piece = draw.choice((b"[", b"{", b"9", b"9 ", b"a", b"-", b'{"a":', b"\\", b"(", b" "))
        lines[place] += piece * draw.choice((1, 50, 3000, 60_000))
    return b"\n".join(lines)


_OF_BYTES = (_flip, _flip, _noise, _number, _number, _cut, _drop, _repeat, _move, _append, _insert)
_OF_TEXT = (_figure, _word, _line)
