"""From a folder of images and labels to a store: reading, preparing and writing its cases.

`layouts` finds the files and `formats` decodes them.
Preparation of images for a prediction belongs to `inference`.
"""
