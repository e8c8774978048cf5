"""Evaluation: protocols, baselines, fixed episode lists and sweeps over grids of settings.

Metrics are in `wsicl_jax.metrics`. Reports of what was measured are in `wsicl_jax.report`; nothing
here draws figures or writes pages.
"""
