"""`wsicl predict --dry-run`: read all inputs and report; segment and write nothing."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import ReadingConfig
from wsicl_jax.errors import WsiclError
from wsicl_jax.inference.batch.outputs import outputs_of
from wsicl_jax.inference.batch.predict import table_of
from wsicl_jax.inference.batch.targets import Target, read_target
from wsicl_jax.inference.inputs.context_set import ContextSet
from wsicl_jax.inference.inputs.example import Example
from wsicl_jax.inference.inputs.images import as_label_map, as_path, as_volume
from wsicl_jax.inference.memory_plan import Plan
from wsicl_jax.inference.remarks import on_image
from wsicl_jax.inference.task import Task
from wsicl_jax.prompts import Negative, kind_of
from wsicl_jax.terminal.progress import track

_COLUMNS = ("target", "voxels", "spacing (mm)", "output", "exists", "memory (GB)")


@dataclass(frozen=True)
class DryRun:
    """The report of a dry run."""

    tables: tuple[RenderableType, ...]
    problems: tuple[str, ...]
    """Reasons why the batch would not begin."""
    failed: dict[str, str]
    """Name of a target to the reason why it would get no label map."""

    def report(self) -> RenderableType:
        """All of it, for `console().print`."""
        parts = list(self.tables)
        for titles, rows in (
            (("target that would fail", "reason"), list(self.failed.items())),
            (("would be refused",), [(problem,) for problem in self.problems]),
        ):
            if rows:
                parts.append(table_of(titles, rows))
        return Group(*parts, Text("dry run: nothing was written"))


def dry_run(
    make_task: Callable[[], Task],
    context: ContextSet | None,
    targets: Sequence[Target],
    *,
    notes: Sequence[str] = (),
    problems: Sequence[str] = (),
    probabilities: bool = False,
    reading: ReadingConfig | None = None,
) -> DryRun:
    """Report what a batch would do, and everything that would fail.

    `make_task` loads the network and prepares the context set. `notes` and `problems` are known
    from finding the files. Without a context set, only the targets are read.
    """
    tables: list[RenderableType] = [Text(note) for note in notes]
    problems = list(problems)
    task = None
    if context is not None:
        context_table, remarks, faults = _context_table(context, reading)
        tables += [context_table, *map(Text, remarks)]
        problems += faults
        if not faults:
            try:
                task = make_task()
            except WsiclError as error:
                problems.append(str(error))
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
                remarks = (*remarks, *on_image(volume.image))
                tables += [Text(f"{target.name}: {remark}") for remark in remarks]
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
    return DryRun(tuple(tables), tuple(problems), failed)


def _context_table(
    context: ContextSet, reading: ReadingConfig | None
) -> tuple[Table, list[str], list[str]]:
    """Structures, images and prompts of a context set, then remarks and errors on them."""
    read_image = functools.lru_cache(maxsize=1)(functools.partial(as_volume, reading=reading))
    read_label = functools.lru_cache(maxsize=1)(functools.partial(as_label_map, reading=reading))
    rows, lines, remarks, problems = {}, [], [], []
    jobs = [(name, i, e) for name, es in context.structures.items() for i, e in enumerate(es)]
    # Examples that share an image follow each other, so that it is read once.
    for name, number, example in sorted(jobs, key=lambda job: str(as_path(job[2].image))):
        prompts = "-"
        label = example.name or f"{name}: context {number + 1}"
        try:
            prompts, notes = _prompts(example, read_image, read_label, reading)
            remarks += [f"{label}: {remark}" for remark in notes]
        except WsiclError as error:
            problems.append(str(error) if example.name else f"{label}: {error}")
        image = as_path(example.image)
        rows[name, number] = (str(image) if image else example.name), prompts
    for name, number, _ in jobs:
        value = context.values[name]
        first = (name, str(value)) if number == 0 else ("", "")
        lines.append((*first, *rows[name, number]))
    table = table_of(("structure", "value", "context image", "prompts"), lines)
    return table, remarks, list(dict.fromkeys(problems))


def _prompts(
    example: Example, read_image, read_label, reading: ReadingConfig | None
) -> tuple[str, tuple[str, ...]]:
    by_path = as_path(example.mask) is not None
    loaded = example.load(read_image, read_label if by_path else as_label_map, reading)
    counts = Counter(
        f"{'negative ' if isinstance(prompt, Negative) else ''}{kind_of(prompt)}"
        for prompt in loaded.prompts
    )
    return ", ".join(f"{count} {kind}" for kind, count in counts.items()), loaded.remarks


def _of_network(plans: Sequence[Plan]) -> list[RenderableType]:
    """The steps for the targets, and the memory of the one that needs most."""
    if not plans:
        return []
    lines = [
        Text(f"network, for {count} target{'s' * (count != 1)}: {steps}")
        for steps, count in Counter(plan.steps for plan in plans).items()
    ]
    return [*lines, max(plans, key=lambda plan: plan.memory_gb).table()]
