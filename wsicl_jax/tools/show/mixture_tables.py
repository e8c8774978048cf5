"""Tables of what training will sample: the share of each data set and structure."""

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from wsicl_jax.config import ExperimentConfig
from wsicl_jax.data.datasets import DataSet, open_datasets
from wsicl_jax.data.episodes.sampling import EpisodeSource
from wsicl_jax.data.episodes.sources import StoreSource


def mixture(config: ExperimentConfig) -> Group:
    """The shares that follow from the settings and the catalogues; no voxel is read.

    Raises:
        DataError: a store is missing, or has too few training cases.
    """
    datasets = open_datasets(config)
    source = EpisodeSource(config, datasets)
    training = [dataset for dataset in datasets if dataset.settings.weight]
    shares = dict(zip((dataset.name for dataset in training), source.source_shares, strict=True))
    tables = [_set_table(config, datasets, shares)]
    for dataset, one in zip(training, source.sources, strict=True):
        if isinstance(one, StoreSource):
            tables.append(_structure_table(dataset, one, shares[dataset.name]))
    return Group(*tables)


def _set_table(
    config: ExperimentConfig, datasets: list[DataSet], shares: dict[str, float]
) -> Table:
    total = config.train.steps * config.train.batch
    table = Table("data set", title=f"data sets: {total:,} episodes, {config.episode.sampling}")
    for heading in ("weight", "training subjects", "cases", "share", "episodes"):
        table.add_column(heading, justify="right")
    for dataset in datasets:
        cases = dataset.cases("train")
        share = shares.get(dataset.name, 0.0)
        counts = (str(len(dataset.subjects_of(cases))), str(len(cases))) if cases else ("-", "-")
        table.add_row(
            Text(dataset.name),
            f"{dataset.settings.weight:g}",
            *counts,
            f"{share:.1%}",
            f"{share * total:,.0f}",
        )
    return table


def _structure_table(dataset: DataSet, source: StoreSource, share: float) -> Table:
    together = ", which episodes unite" if source.are_united else ""
    table = Table("structure", title=f"structures of {dataset.name}{together}")
    table.add_column("cases", justify="right")
    table.add_column("share of all episodes", justify="right")
    for name, cases, own in _structures(dataset, source):
        table.add_row(Text(name), str(cases), f"{share * own:.2%}" if own else "too few cases")
    return table


def _structures(dataset: DataSet, source: StoreSource) -> Iterator[tuple[str, int, float]]:
    """Name, training cases and share of each structure that training may sample."""
    names = {labels: name for name, labels in dataset.structures.items()}
    if source.are_united:
        names = {(label,): dataset.store.label_names[label] for label in dataset.labels}
    shares = {
        structure.labels: share
        for structure, share in zip(source.structures, source.structure_shares, strict=True)
    }
    for labels, name in names.items():
        yield name, len(dataset.having(labels, "train")), shares.get(labels, 0.0)
