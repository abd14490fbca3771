"""The entry point of `python -m falconer`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it loads ends it as it ends a command."""
    try:
        from falconer.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
