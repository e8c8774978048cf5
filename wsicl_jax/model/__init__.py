"""The dual-branch network: its layers, the mean over context images, losses and initialization.

Arrays on the working grid in, scores out. Nothing here reads files, samples or trains.
"""
