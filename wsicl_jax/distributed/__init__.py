"""Devices and processes: the mesh, placement of arrays, joining and watching processes.

Nothing here knows the network or the data; it only places and exchanges arrays, and makes all
processes of a run decide alike.
"""
