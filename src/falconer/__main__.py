"""The entry point of `python -m falconer`."""

import signal
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it loads ends it as it ends a command."""
    try:
        from falconer.cli import main as run
    except KeyboardInterrupt:
        print("falconer: interrupted.", file=sys.stderr)
        sys.exit(130)
    try:
        run()
    finally:
        # The work is done: while Python ends, Ctrl-C is no longer an exception that nothing catches.
        signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
