"""Synthetic cohorts: random anatomies, their subjects, and the effects of a scanner.

Everything follows from a seed and `SynthConfig`. `cohort_stores` writes cohorts as stores.
Sampling of episodes does not belong here.
"""
