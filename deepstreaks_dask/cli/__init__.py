"""The command line, ``deepstreaks``: one module a group of commands.

Commands are thin: they read options, call a library function and print what it returns.
"""

__all__: list[str] = []
