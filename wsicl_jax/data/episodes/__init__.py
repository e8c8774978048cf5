"""Episodes of training: sampled subjects of one structure, with prompts, in batches.

`loader` makes batches, `sampling` makes episodes, `sources` sample subjects.
Episodes of an evaluation belong to `evaluate`.
"""
