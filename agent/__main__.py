"""`campaign-agent` and `python -m agent`."""

import gc
import sys


def main() -> None:
    # Start-up makes many objects that live for ever: collecting among them is a tenth of its time.
    gc.disable()
    # httpx imports its own command line, with Rich and Pygments, wherever it finds them.
    sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
    from agent.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
