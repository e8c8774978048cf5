"""Sessions: what people have marked, saved after every change.

A change is on disk before its request is answered, so that a killed service loses nothing.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wsicl_jax import __version__
from wsicl_jax.errors import DataError, PromptError, reason
from wsicl_jax.inference.inputs.positions import MOST_PROMPTS, check_count
from wsicl_jax.serve.documents import (
    Edit,
    Image,
    PlacedPrompt,
    Prompt,
    Result,
    Role,
    State,
    Structure,
)
from wsicl_jax.serve.folder import TooManyError
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.digests import digest_of

COLOURS = ("#e4572e", "#2e86ab", "#3da35d", "#c77dff", "#f2b134", "#00b8a9", "#f25f8a", "#8a6d3b")
"""Of the first structures of a session."""

MOST_SESSIONS = 200
"""In one folder."""

_MOST_EDITS = 500
"""Prompts that undo remembers."""


class MissingError(DataError):
    """There is no such session, image, prompt or result."""


class Session:
    """One session; several threads may use it."""

    def __init__(self, directory: Path, state: State):
        self._directory = directory
        self._state = state
        self._lock = threading.RLock()
        self._is_deleted = False

    @property
    def id(self) -> str:
        return self._state.id

    @property
    def state(self) -> State:
        """The present state, which is replaced and never changed."""
        return self._state

    def result_file(self, image: str) -> Path:
        """The label map of a target."""
        return self._directory / "results" / self.id / f"{image}.nii.gz"

    def accepted_file(self, image: str) -> Path:
        """The accepted mask of an image."""
        return self._directory / "accepted" / self.id / f"{image}.nii.gz"

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """A copy of the state, which is saved and becomes the state at the end of the block."""
        with self._lock:
            if self._is_deleted:
                raise MissingError(f"session {self.id} was deleted")
            new = self._state.model_copy(deep=True)
            yield new
            new.changed = time.time()
            save(self._directory, new)
            self._state = new

    def rename(self, name: str) -> None:
        """Give the session another name."""
        with self._changing() as new:
            new.name = name

    def set_structures(self, structures: list[Structure]) -> None:
        """Replace the structures; raises `DataError` if one with prompts is missing."""
        with self._changing() as new:
            kept = {structure.value for structure in structures}
            for id, image in new.images.items():
                marked = {prompt.structure for prompt in image.prompts} | set(image.accepted)
                if missing := marked - kept:
                    names = [s.name for s in new.structures if s.value in missing]
                    raise DataError(f"{id} has prompts of {', '.join(names)}; remove them first")
            new.structures = structures
            new.undo = [edit for edit in new.undo if edit.prompt.structure in kept]
            new.redo = []

    def set_role(self, image: str, role: Role) -> None:
        """Use an image as a context image, a target, or not; only the first keeps a mask."""
        with self._changing() as new:
            entry = new.images.setdefault(image, Image())
            entry.role = role
            if role != "context":
                entry.accepted = {}

    def add_prompt(self, image: str, prompt: Prompt) -> int:
        """Add a prompt that was checked against its image; returns its number.

        Raises:
            DataError: the structure is unknown.
            PromptError: the image has too many prompts.
        """
        with self._changing() as new:
            if prompt.structure not in {structure.value for structure in new.structures}:
                known = [structure.value for structure in new.structures]
                raise DataError(f"there is no structure {prompt.structure}; there are {known}")
            given = prompt.model_dump()
            placed = PlacedPrompt(**given, number=new.next_number)
            new.next_number += 1
            prompts = new.images.setdefault(image, Image()).prompts
            prompts.append(placed)
            check_count(len(prompts), most=MOST_PROMPTS)
            _remember(new, Edit(added=True, image=image, prompt=placed))
            return placed.number

    def remove_prompt(self, image: str, number: int) -> None:
        """Remove a prompt; raises `MissingError` if there is none."""
        with self._changing() as new:
            removed = _removed(new, image, number)
            _remember(new, Edit(added=False, image=image, prompt=removed))

    def undo(self) -> None:
        """Take back the last prompt that was added or removed; raises `PromptError` if none."""
        self._turn("undo", "redo", back=True)

    def redo(self) -> None:
        """Repeat what `undo` took back; raises `PromptError` if there is nothing."""
        self._turn("redo", "undo", back=False)

    def _turn(self, source: str, target: str, *, back: bool) -> None:
        with self._changing() as new:
            edits = getattr(new, source)
            if not edits:
                raise PromptError(f"there is nothing to {source}")
            edit = edits.pop()
            if edit.added == back:
                _removed(new, edit.image, edit.prompt.number)
            else:
                prompts = new.images.setdefault(edit.image, Image()).prompts
                prompts.append(edit.prompt)
                prompts.sort(key=lambda prompt: prompt.number)
            getattr(new, target).append(edit)

    def set_result(self, image: str, result: Result, write: Callable[[Path], None]) -> None:
        """Keep the result of a target; `write` writes its label map."""
        file = self.result_file(image)
        file.parent.mkdir(parents=True, exist_ok=True)
        # A large file takes seconds, during which people go on.
        write(file)
        try:
            with self._changing() as new:
                new.images.setdefault(image, Image(role="target")).result = result
        except MissingError:
            shutil.rmtree(file.parent, ignore_errors=True)
            raise

    def accept(self, image: str) -> None:
        """Make a target with its result a context image with a mask.

        Raises `MissingError` if it has no result.
        """
        with self._changing() as new:
            entry = new.images.get(image, Image())
            if entry.result is None or not (file := self.result_file(image)).exists():
                raise MissingError(f"{image} has no result; segment it first")
            names = {structure.value: structure.name for structure in new.structures}
            found = {v: names[v] for v, ml in entry.result.volumes_ml.items() if ml and v in names}
            if not found:
                raise DataError(f"the result of {image} is empty; correct it first")
            accepted = self.accepted_file(image)
            accepted.parent.mkdir(parents=True, exist_ok=True)
            write_whole(accepted, file.read_bytes())
            entry.accepted, entry.role = found, "context"

    def delete(self) -> None:
        """Remove the session and its files."""
        with self._lock:
            self._is_deleted = True
            _file(self._directory, self.id).unlink(missing_ok=True)
            for kind in ("results", "accepted"):
                shutil.rmtree(self._directory / kind / self.id, ignore_errors=True)

    def inputs_of(self, image: str) -> str:
        """Digest of all that the result of a target depends on, besides the network."""
        state = self._state
        return _inputs(state, image, self._context_digest(state))

    def described(self) -> dict[str, Any]:
        """The session for its clients: the state, and whether each result is out of date."""
        state = self._state
        content = state.model_dump(mode="json", exclude={"undo", "redo", "next_number"})
        content["can_undo"], content["can_redo"] = bool(state.undo), bool(state.redo)
        context = self._context_digest(state)
        for id, image in content["images"].items():
            if (result := image["result"]) is not None:
                result["outdated"] = result.pop("inputs") != _inputs(state, id, context)
        return content

    def _context_digest(self, state: State) -> str:
        context = {
            id: [_plain(image.prompts), list(image.accepted), _time_of(self.accepted_file(id))]
            for id, image in state.images.items()
            if image.role == "context"
        }
        return digest_of([context, sorted(structure.value for structure in state.structures)])


class Sessions:
    """All sessions of a folder."""

    def __init__(self, directory: Path, network: str):
        """Read the saved sessions; damaged files stay, and are listed as problems."""
        self._directory, self._network = directory, network
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self.problems: list[str] = []
        for file in sorted((directory / "sessions").glob("*.json")):
            try:
                state = State.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                self.problems.append(f"{file} is skipped: {reason(error)}")
            else:
                self._sessions[state.id] = Session(directory, state)

    def __getitem__(self, id: str) -> Session:
        try:
            return self._sessions[id]
        except KeyError:
            raise MissingError(f"there is no session {id[:40]!r}") from None

    def listed(self) -> list[dict[str, Any]]:
        """Identifier, name and time of each session, the latest first."""
        states = sorted((s.state for s in self._sessions.values()), key=lambda s: -s.changed)
        return [{"id": s.id, "name": s.name, "changed": s.changed} for s in states]

    def new(self, name: str) -> Session:
        """A session with one structure; raises `TooManyError` beyond the limit."""
        with self._lock:
            if len(self._sessions) >= MOST_SESSIONS:
                raise TooManyError(f"there are {MOST_SESSIONS} sessions; delete one first")
            state = State(
                id=os.urandom(8).hex(),
                name=name,
                network=self._network,
                software=__version__,
                changed=time.time(),
                structures=[Structure(value=1, name="structure", colour=COLOURS[0])],
            )
            save(self._directory, state)
            session = self._sessions[state.id] = Session(self._directory, state)
            return session

    def delete(self, id: str) -> None:
        """Delete a session; raises `MissingError` if there is none."""
        self[id].delete()
        with self._lock:
            self._sessions.pop(id, None)


def save(directory: Path, state: State) -> None:
    """Write a session; raises `OSError` if that fails."""
    file = _file(directory, state.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, (state.model_dump_json(indent=1) + "\n").encode())


def _file(directory: Path, id: str) -> Path:
    return directory / "sessions" / f"{id}.json"


def _remember(state: State, edit: Edit) -> None:
    state.undo = [*state.undo, edit][-_MOST_EDITS:]
    state.redo = []


def _removed(state: State, image: str, number: int) -> PlacedPrompt:
    prompts = state.images.get(image, Image()).prompts
    for place, prompt in enumerate(prompts):
        if prompt.number == number:
            return prompts.pop(place)
    raise MissingError(f"{image} has no prompt {number}")


def _inputs(state: State, image: str, context: str) -> str:
    return digest_of([context, _plain(state.images.get(image, Image()).prompts)])


def _plain(prompts: list[PlacedPrompt]) -> list[dict[str, Any]]:
    return [prompt.model_dump() for prompt in prompts]


def _time_of(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None
