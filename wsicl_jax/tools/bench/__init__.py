"""`wsicl bench`: measures time, memory and exchanged bytes of parts of the system.

One file for each benchmark. Benchmarks change nothing outside of temporary folders.
"""
