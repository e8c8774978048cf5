"""`wsicl report`: scores of sweeps as one HTML page, CSV files and PNG figures.

Everything here reads scores that a sweep wrote. Only `replay` runs networks, for the pictures.
"""
