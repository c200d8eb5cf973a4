"""`python -m qtool`."""

from qtool.cli.main import main

main()
