"""Reading and writing: locations, text documents, whole files, locks, digests and checkpoints.

Nothing here knows what medical images, networks or trainings are. Rooms above decide what is
written; this one decides how, so that damage is noticed and nothing is written in part.
"""
