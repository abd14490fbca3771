"""`python -m falconer` and the `falconer` command."""

from falconer.cli import main

if __name__ == "__main__":
    main()
