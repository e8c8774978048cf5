"""`wsicl predict`: which targets are segmented, where their results go, and what a dry run reports.

Files and folders belong here; segmentation itself is `inference.task`.
"""
