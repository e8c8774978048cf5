"""The report of some sweeps: one self-contained HTML page, CSV files and PNG figures."""

import base64
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from wsicl_jax.config import BaselineName
from wsicl_jax.errors import DataError
from wsicl_jax.evaluate.records import Score, title_of
from wsicl_jax.prompts import ONCE_PER_IMAGE, SECONDS
from wsicl_jax.report.case_pictures import (
    MOST_CONTEXTS,
    PicturedTarget,
    choose_targets,
    prediction_words,
    replay_targets,
)
from wsicl_jax.report.comparisons import EQUAL_TIME, MIN_SUBJECTS, SIGNIFICANCE, verdict
from wsicl_jax.report.csv_files import scores_csv, summary_csv
from wsicl_jax.report.drawings import drawings_of
from wsicl_jax.report.findings import key_numbers, questions_of
from wsicl_jax.report.headlines import headlines
from wsicl_jax.report.model_groups import ModelGroup, model_groups, with_curves
from wsicl_jax.report.page_tables import restoration_rows, rounds_rows, tables_of
from wsicl_jax.report.replay import ReplayedCase
from wsicl_jax.report.results import Results, read_results
from wsicl_jax.report.style import colour, heat
from wsicl_jax.report.wording import counted, duration, listed, number, p_words, signed
from wsicl_jax.storage.atomic import write_whole
from wsicl_jax.storage.object_path import Place

PAGE, SCORES, SUMMARY = "report.html", "scores.csv", "summary.csv"
"""Names of the page and of the CSV files."""

_HERE = Path(__file__).parent
_FILES = re.compile(rb'<meta name="wsicl-report-files" content="([^"]*)">')


class ReportFiles(NamedTuple):
    """Paths of the written files."""

    page: Path
    scores: Path
    summary: Path
    figures: tuple[Path, ...]


def write_report(
    directories: Sequence[Place],
    output: Path,
    *,
    title: str | None = None,
    command: str = "",
    replay: Callable[[Score], ReplayedCase] | None = None,
    overwrite: bool = False,
) -> ReportFiles:
    """Write `report.html`, `scores.csv`, `summary.csv` and the figures as PNG into a directory.

    The page loads nothing: figures and pictures are part of it. `replay` returns the images and
    the prediction of a score, for the best, the median and the worst target of each data set;
    where it raises a `WsiclError`, the page gives the reason. The same sweeps give the same bytes.
    All content is made before the first file is written, and the page is written last.

    Raises:
        DataError: a sweep has no scores or cannot be read, sweeps contradict each other, or
            `output` holds another report, or a file of the same name, and `overwrite` is false.
        OSError: a file cannot be written.
    """
    old = _old_files(output, overwrite)
    results = read_results(directories)
    groups = model_groups(results)
    full = with_curves(groups)
    networks = [g for g in full if not set(g.models) <= set(get_args(BaselineName))] or full
    targets, without_picture = _pictured(results, networks, replay)
    figures, pictures = drawings_of(results, groups, targets)
    drawings = [figure.drawing for section in figures.values() for figure in section]
    drawings += [drawing for drawing, _ in pictures]
    contents = {
        SCORES: scores_csv(results),
        SUMMARY: summary_csv(results),
        **{f"{drawing.name}.png": drawing.png for drawing in drawings},
    }
    if not overwrite and (existing := [name for name in contents if (output / name).exists()]):
        raise DataError(
            f"{output} has a {existing[0]} already; allow overwriting or give another directory"
        )
    page = _render(
        title=title or f"In-context segmentation: {_subject(results.data_sets)}",
        command=command,
        results=results,
        full=full,
        several=len(results.models) > 1,
        questions=questions_of(results, networks),
        headlines=headlines(results),
        figures=figures,
        tables=[tables_of(results, groups, name) for name in results.data_sets],
        rounds=rounds_rows(results, groups),
        restoration=restoration_rows(results),
        pictures=pictures,
        without_picture=without_picture,
        key_numbers=[(group.name, key_numbers(results, group)) for group in networks],
        files=[PAGE, *contents],
        tolerance=_tolerance(results),
        counts=_counts(results),
    )
    output.mkdir(parents=True, exist_ok=True)
    for name in old - set(contents):
        (output / name).unlink(missing_ok=True)
    for name, content in contents.items():
        write_whole(output / name, content)
    write_whole(output / PAGE, page.encode())
    return ReportFiles(
        output / PAGE,
        output / SCORES,
        output / SUMMARY,
        tuple(output / f"{drawing.name}.png" for drawing in drawings),
    )


def _old_files(output: Path, overwrite: bool) -> set[str]:
    """Names of the files of an earlier report, which the new one replaces."""
    page = output / PAGE
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file; give a directory for the report")
    if not page.exists():
        return set()
    if not overwrite:
        raise DataError(f"{output} holds a report; allow overwriting or give another directory")
    names = _FILES.search(page.read_bytes())
    own = re.compile(r"[\w.-]+\.(png|csv)")
    return {n for n in names[1].decode().split() if own.fullmatch(n)} if names else set()


def _pictured(
    results: Results,
    groups: Sequence[ModelGroup],
    replay: Callable[[Score], ReplayedCase] | None,
) -> tuple[list[PicturedTarget], list[str]]:
    """The targets with pictures, and sentences on models without."""
    if replay is None:
        return [], ["No pictures were requested."]
    chosen = choose_targets(results, groups[0]) if groups else []
    if not chosen:
        return [], ["No target has a Dice."]
    targets, reasons = replay_targets(chosen, replay)
    models: dict[str, list[str]] = {}
    for model, reason in reasons.items():
        models.setdefault(reason, []).append(model)
    return targets, [f"No picture of {listed(names)}: {why}." for why, names in models.items()]


def _subject(data_sets: Sequence[str]) -> str:
    return listed(data_sets) if len(data_sets) < 3 else counted(len(data_sets), "data set")


def _tolerance(results: Results) -> str:
    values = dict.fromkeys(s.tolerance_mm for s in results.sweeps if s.tolerance_mm is not None)
    return listed([f"{value:g} mm" for value in values]) or "an unknown tolerance"


def _counts(results: Results) -> list[str]:
    structures = {(name, s) for name in results.data_sets for s in results.structures(name)}
    subjects = {(score.data_set, score.subject) for score in results.scores}
    return [
        counted(count, noun)
        for count, noun in (
            (len(results.models), "model"),
            (len(results.data_sets), "data set"),
            (len(structures), "structure"),
            (len(subjects), "subject"),
            (len(results.scores), "score"),
        )
        if count
    ]


def _render(**content: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        signed=signed,
        p_words=p_words,
        counted=counted,
        prediction_words=prediction_words,
        duration=duration,
        listed=listed,
        colour=colour,
        verdict=verdict,
        svg=Markup,
        base64=lambda content: base64.b64encode(content).decode(),
        yaml=lambda config: yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )
    environment.globals.update(
        heat=heat, title_of=title_of, EQUAL_TIME=EQUAL_TIME, MIN_SUBJECTS=MIN_SUBJECTS,
        SIGNIFICANCE=SIGNIFICANCE, MOST_CONTEXTS=MOST_CONTEXTS, ONCE_PER_IMAGE=ONCE_PER_IMAGE,
        SECONDS=SECONDS,
        style=Markup((_HERE / "page.css").read_text()),
    )  # fmt: skip
    return environment.get_template("page.html.j2").render(content)
