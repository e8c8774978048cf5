"""Tables of what a store, a checkpoint, a run or a file of weights holds."""

from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import ExperimentConfig, config_from_dict, config_to_dict
from wsicl_jax.data.seen import Seen
from wsicl_jax.data.store import Store
from wsicl_jax.errors import DataError, WsiclError
from wsicl_jax.storage.object_path import Place, place_of
from wsicl_jax.storage.transfer import on_disk
from wsicl_jax.tools.show.store_listing import label_table, triple
from wsicl_jax.train.log import read_log
from wsicl_jax.train.meter import EPISODES_OF, LOSS_OF, worst_structures


def describe(name: str | Place) -> RenderableType:
    """A store's cases and labels, or the network of a checkpoint, a run, a file of weights, or of
    a name that comes with this package.

    Raises:
        WsiclError: it is none of these.
    """
    path = place_of(name)
    if (path / "zarr.json").is_file():
        return _describe_store(Store.open(str(path)))
    # Imported on demand, here and below: slow, and a store needs none of it.
    from wsicl_jax.weights.networks import network_path

    path = network_path(name)
    if not path.exists():
        raise WsiclError(
            f"{path} does not exist, and no network of this name comes with wsicl_jax; give a "
            "store, run, checkpoint or file of weights"
        )
    if path.is_file():
        return _describe_file(path)
    return _describe_checkpoint(path)


def _describe_store(store: Store) -> RenderableType:
    cases = [store.case(name) for name in store.cases]
    if not cases:
        raise DataError(f"{store.path} has no cases; convert the data again")
    shapes = np.array([case.shape for case in cases])
    spacings = np.array([case.spacing_mm for case in cases])
    facts = _facts(
        ("store", store.name),
        ("cases", str(len(cases))),
        ("channels", ", ".join(store.channel_names)),
        ("shape", f"{triple(shapes.min(0))} to {triple(shapes.max(0))} voxels"),
        ("spacing", f"{triple(spacings.min(0))} to {triple(spacings.max(0))} mm"),
    )
    return Group(facts, label_table(store))


def _describe_file(path: Place) -> RenderableType:
    from wsicl_jax.weights.file_loading import load_with_settings

    with on_disk(path) as file:
        settings, size = load_with_settings(file).settings, file.stat().st_size
    facts = [("file", f"{path.name}, {size:,} bytes")]
    if settings.step is not None:
        facts.append(("step", f"{settings.step:,} of {settings.experiment.train.steps:,}"))
    facts += _network(settings.experiment)
    return Group(_facts(*facts), *([_seen(settings.seen)] if settings.seen else []))


def _network(config: ExperimentConfig) -> list[tuple[str, str]]:
    from wsicl_jax.model.dual_branch import count_parameters

    volume = config.volume
    return [
        ("channels", ", ".join(map(str, config.model.channels))),
        ("parameters", f"{count_parameters(config.model):,}"),
        ("precision", config.model.precision),
        ("context", _settings(config.model.context)),
        ("working grid", triple(volume.grid)),
        ("margins of one value", "cut off" if volume.crop else "kept"),
        ("prompt smoothing", f"{volume.prompt_smoothing:g}" if volume.prompt_smoothing else "none"),
        ("context images", "registered to the target" if volume.registration else "as they are"),
    ]


def _describe_checkpoint(path: Place) -> RenderableType:
    from wsicl_jax.storage.checkpoints import damage, find_checkpoint, read_metadata
    from wsicl_jax.train.binding import seen_by
    from wsicl_jax.train.run_checkpoints import has_steps, read_quality
    from wsicl_jax.train.run_directory import saved_settings
    from wsicl_jax.weights.network_checkpoint import experiment_config
    from wsicl_jax.weights.networks import find_network

    saved = path / "config.yaml"
    metadata: dict[str, Any] = {"step": 0}
    checkpoint = None
    if saved.is_file() and not has_steps(path):
        config = config_from_dict(saved_settings(path))
        facts = [("checkpoint", "none yet")]
    else:
        checkpoint = find_checkpoint(path)
        metadata = read_metadata(checkpoint)
        config = experiment_config(metadata)
        facts = [
            ("checkpoint", str(checkpoint)),
            ("verified", damage(checkpoint) or "yes"),
            ("written by", f"wsicl_jax {metadata['version']}"),
        ]
        if (quality := read_quality(checkpoint)) is not None:
            facts.append(("validation Dice", f"{quality.dice:.4f}"))
            if quality.loss is not None:
                facts.append(("validation loss", f"{quality.loss:.4g}"))
    facts += _network(config)
    if "source" in metadata:
        facts.append(("imported from", metadata["source"]))
    if "step" in metadata:
        facts += [
            ("step", f"{metadata['step']:,} of {config.train.steps:,}"),
            ("data", ", ".join(dataset.store for dataset in config.data)),
            ("prompts", ", ".join(config.prompts.kinds)),
        ]
    if metadata.get("skipped"):
        facts.append(("skipped updates", f"{metadata['skipped']:,}"))
    newest: dict[str, int | float] = {}
    for entry in read_log(path):
        newest |= entry
    facts += [
        (name, f"{value:.4g}")
        for name, value in newest.items()
        if name not in ("step", "skipped") and not name.startswith((EPISODES_OF, LOSS_OF))
    ]
    if worst := worst_structures(newest):
        facts.append(("highest losses", worst))
    if checkpoint is None:
        return _facts(*facts)
    try:
        seen = _seen(seen_by(find_network(checkpoint)))
    except DataError as error:
        seen = Text(f"the data that it has seen cannot be read: {error}")
    return Group(_facts(*facts), seen)


def _seen(seen: Seen) -> RenderableType:
    """All data that a network has seen, and the networks whose data is unknown."""
    table = Table("data set that it has seen", "as")
    for name in ("subjects", "cases"):
        table.add_column(name, justify="right")
    for one in seen.data_sets:
        counts = (str(one.subjects), str(len(one.cases))) if one.cases else ("-", "-")
        table.add_row(Text(one.name), one.use, *counts)
    unknown = [Text(f"the data that {name} has seen is not known") for name in seen.unknown]
    return Group(*([table] if seen.data_sets else []), *unknown)


def _settings(section: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in config_to_dict(section).items())


def _facts(*rows: tuple[str, str]) -> Table:
    table = Table(box=None, show_header=False)
    for name, value in rows:
        table.add_row(Text(name, style="bold"), Text(value))
    return table
