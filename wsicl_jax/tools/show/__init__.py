"""`wsicl show` and `wsicl data`: pictures and tables of images, prompts, stores and augmentation.

Figures of evaluations lie in `report/`.
"""
