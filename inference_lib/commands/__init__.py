"""What is typed at a prompt: one module a command, named like it; ``options`` holds what several of them take.

A command has a docstring of one line (its help), ``arguments(parser)`` and ``run(options)``, which returns the exit
status (None: 0).
Nothing that takes long to import stands at the top of such a module, so that help and mistakes are answered at once.
"""
