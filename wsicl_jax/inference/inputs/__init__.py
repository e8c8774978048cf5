"""What users give: images, prompts and context sets, checked and brought to voxels of the image.

Nothing here knows the network or the working grid.
"""
