"""What `wsicl predict` would do: all that it reads is read, nothing is segmented or written."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import ReadingConfig
from wsicl_jax.errors import WsiclError
from wsicl_jax.geometry.axes import Shape3
from wsicl_jax.inference.batch.predict import outputs_of, table_of
from wsicl_jax.inference.batch.targets import Target, read_target
from wsicl_jax.inference.inputs.context_set import ContextSet
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_label_map, as_path, as_volume
from wsicl_jax.inference.memory_plan import Plan
from wsicl_jax.inference.remarks import on_image
from wsicl_jax.prompts import kind_of
from wsicl_jax.terminal.progress import track

_COLUMNS = ("target", "voxels", "spacing (mm)", "output", "exists", "memory (GB)")


@runtime_checkable
class Plans(Protocol):
    """What is needed of a task."""

    def plan(
        self, shape: Shape3, affine: Float[np.ndarray, "4 4"], *, probabilities: bool
    ) -> Plan: ...


@dataclass(frozen=True)
class DryRun:
    """What was found out."""

    tables: tuple[RenderableType, ...]
    problems: tuple[str, ...]
    """Why the batch would not begin."""
    failed: dict[str, str]
    """Name of a target to why it would get no label map."""

    def report(self) -> RenderableType:
        """All of it, for `console().print`."""
        shown = list(self.tables)
        for titles, rows in (
            (("target that would fail", "reason"), list(self.failed.items())),
            (("would be refused",), [(problem,) for problem in self.problems]),
        ):
            if rows:
                shown.append(table_of(titles, rows))
        return Group(*shown, Text("dry run: nothing was written"))


def dry_run(
    make_task: Callable[[], Plans],
    context: ContextSet | None,
    targets: Sequence[Target],
    *,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
    probabilities: bool = False,
    reading: ReadingConfig | None = None,
) -> DryRun:
    """Find out what a batch would do, and everything that would go wrong.

    `make_task` loads the network and prepares the context set; `notes` and `problems` are what
    is known already. Without a context set only the targets are looked at.
    """
    tables: list[RenderableType] = [Text(note) for note in notes]
    found = list(problems)
    task = None
    if context is not None:
        shown, said, wrong = _context_table(context, reading)
        tables += [shown, *map(Text, said)]
        found += wrong
        if not wrong:
            try:
                task = make_task()
            except WsiclError as error:
                found.append(str(error))
    names = list(context.structures) if context else []
    failed: dict[str, str] = {}
    plans: list[Plan] = []
    rows: list[Sequence[str]] = []
    with track(len(targets), "reading targets") as bar:
        for target in targets:
            bar.status(target.output.name)
            shape = spacing = memory = "-"
            try:
                volume, remarks = read_target(target, reading)
            except WsiclError as error:
                failed[target.name] = str(error)
            else:
                shape = " x ".join(map(str, volume.image.shape))
                spacing = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
                said = (*remarks, *on_image(volume.image))
                tables += [Text(f"{target.name}: {remark}") for remark in said]
                if task is not None:
                    plan = task.plan(volume.image.shape, volume.affine, probabilities=probabilities)
                    plans.append(plan)
                    memory = f"{plan.memory_gb:.2f}"
                    try:
                        plan.check(reading and reading.max_memory_gb)
                    except WsiclError as error:
                        failed[target.name] = str(error)
                del volume
            for path in outputs_of(target, names, probabilities=probabilities).files:
                exists = "yes" if path.exists() else "no"
                rows.append((target.name, shape, spacing, path.name, exists, memory))
            bar.advance()
    folders = {str(target.output.parent) for target in targets}
    table = table_of(_COLUMNS, rows)
    table.title = f"results in {', '.join(sorted(folders))}" if folders else None
    tables += [table, *_of_network(plans)]
    return DryRun(tuple(tables), tuple(found), failed)


def _context_table(
    context: ContextSet, reading: ReadingConfig | None
) -> tuple[Table, list[str], list[str]]:
    """Structures, images and prompts of a context set, what looks like a mistake in it, and what
    is wrong with it."""
    read_image = functools.lru_cache(maxsize=1)(functools.partial(as_volume, reading=reading))
    read_label = functools.lru_cache(maxsize=1)(functools.partial(as_label_map, reading=reading))
    rows, shown, remarks, problems = {}, [], [], []
    jobs = [(name, i, e) for name, given in context.structures.items() for i, e in enumerate(given)]
    # What shares an image comes together, so that it is read once.
    for name, number, example in sorted(jobs, key=lambda job: str(as_path(job[2].image))):
        prompts = "-"
        called = example.name or f"{name}: context {number + 1}"
        try:
            prompts, said = _prompts(example, read_image, read_label, reading)
            remarks += [f"{called}: {remark}" for remark in said]
        except WsiclError as error:
            problems.append(str(error) if example.name else f"{called}: {error}")
        image = as_path(example.image)
        rows[name, number] = (str(image) if image else example.name), prompts
    for name, number, _ in jobs:
        value = context.values[name]
        first = (name, str(value)) if number == 0 else ("", "")
        shown.append((*first, *rows[name, number]))
    table = table_of(("structure", "value", "context image", "prompts"), shown)
    return table, remarks, list(dict.fromkeys(problems))


def _prompts(
    example: Example, read_image, read_label, reading: ReadingConfig | None
) -> tuple[str, tuple[str, ...]]:
    by_path = as_path(example.mask) is not None
    loaded = example.load(read_image, read_label if by_path else as_label_map, reading)
    counts = Counter(kind_of(prompt) for prompt in loaded.prompts)
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()), loaded.remarks


def _of_network(plans: Sequence[Plan]) -> list[RenderableType]:
    """How the targets would be looked at, and what the one that needs most memory would take."""
    if not plans:
        return []
    looks = Counter(plan.steps for plan in plans)
    lines = [
        Text(f"network, for {count} target{'s' * (count != 1)}: {how}")
        for how, count in looks.items()
    ]
    return [*lines, max(plans, key=lambda plan: plan.memory_gb).table()]
