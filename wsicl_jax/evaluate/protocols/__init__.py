"""One file for each protocol: how a network receives a target, and what is measured.

Each takes an episode list and returns a `Score` for each target and setting. What all protocols
share is in `wsicl_jax.evaluate.prompted_episodes`.
"""
