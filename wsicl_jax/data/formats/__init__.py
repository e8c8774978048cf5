"""File formats: NIfTI, NRRD, MetaImage and DICOM, from bytes to voxels and affine, and back.

Readers check what a file declares before they allocate memory.
`wsicl_jax.data.images` decides whether the content can be used.
"""
