"""Training: the loop, its compiled step, the run's directory, checkpoints and log.

Nothing here evaluates a network or makes an episode: `evaluate` passes in a scoring function, and
`data.episodes` yields the batches.
"""
