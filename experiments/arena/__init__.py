"""The arena: methods and ingredients compared on several tasks at equal cost, with the same search for every method.

`arena.toml` says what is compared; `python -m experiments.arena --help` how it is run; docs/arena.md what came of it.
"""
