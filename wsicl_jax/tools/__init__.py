"""Commands around training and inference, one folder for each: check, bench, ablate, show, demo.

They call the other folders. Nothing outside of the command line imports them.
"""
