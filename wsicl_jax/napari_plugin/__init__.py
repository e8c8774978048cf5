"""The widget of napari: a client of `wsicl serve`, without JAX.

`layers` converts layers and talks to the service, and needs no napari; `widget` is what people see.
"""
