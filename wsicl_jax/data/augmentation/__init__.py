"""Augmentation of the images and masks of an episode.

`group` runs on the host and changes geometry and masks; `intensity` runs in the compiled step.
Sampling of episodes does not belong here.
"""
