"""`python -m qtool`."""

from qtool.cli.start import main

main()
