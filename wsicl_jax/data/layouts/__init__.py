"""Layouts of data set folders: nnU-Net, Decathlon, pairs of files, DICOM folders.

A layout lists cases with their files, and skipped files with the reasons.
Nothing here converts voxels.
"""
