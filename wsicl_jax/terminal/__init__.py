"""Output for people: progress bars and the console for tables.

Nothing here computes or writes files.
"""
