"""`wsicl ablate`: a grid of trainings, run on this machine or by Slurm, and its tables.

Training itself is `wsicl train`, started as a process of its own.
"""
