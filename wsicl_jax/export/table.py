"""What an export came to, for people."""

from rich.table import Table

from wsicl_jax.export.export import Exported


def exported_table(exported: Exported) -> Table:
    """A row for each context size that was compared, below what was written."""
    found = exported.comparison
    back = "" if exported.tensors is None else f", {exported.tensors} tensors back bit for bit"
    table = Table(title=f"{exported.format}, {exported.dtype}, {exported.size:,} bytes{back}")
    for name in ("output of", "on", "context images"):
        table.add_column(name)
    for name in ("deviation", "bound"):
        table.add_column(name, justify="right")
    for contexts, deviation in found.deviations.items():
        grid = " x ".join(map(str, found.grid))
        row = (found.runtime, grid, str(contexts), f"{deviation:.1e}", f"{found.bound:.0e}")
        table.add_row(*row)
    return table
