"""Networks outside of training: found by path or name, and read from files of any format.

Readers check untrusted files and execute nothing. `shipped/` has the networks of the package,
`export/` writes files. Training and inference do not belong here.
"""
