"""Agreement of a mask with the truth, and of a restored image with the original.

Pure functions of arrays; nothing here reads files or knows a protocol.
"""
