"""Starts feedback: `python -m feedback`."""

from feedback.bootstrap import main

if __name__ == "__main__":
    raise SystemExit(main())
