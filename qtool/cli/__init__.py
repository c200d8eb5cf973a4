"""The command line: parse, one library call, render, exit code. click lives here and nowhere else.

Nothing heavy is imported before a command runs, so that `qtool --help` answers at once.
"""
