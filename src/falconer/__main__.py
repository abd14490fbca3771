"""The entry point of `python -m falconer`."""

from falconer.cli import main

if __name__ == "__main__":
    main()
