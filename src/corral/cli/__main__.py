"""`python -m corral.cli`: the command line."""

from corral.cli import main

main()
