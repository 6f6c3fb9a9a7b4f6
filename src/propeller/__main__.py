"""`python -m propeller` is the command line."""

from propeller.cli import main

main()
