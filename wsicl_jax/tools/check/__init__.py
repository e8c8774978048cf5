"""`wsicl check`: what a training run needs and where it would fail, without its hardware.

Nothing is trained here, and no file is written.
"""
