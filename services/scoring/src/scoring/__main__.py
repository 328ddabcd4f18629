"""Starts scoring: `python -m scoring`."""

from scoring.bootstrap import main

if __name__ == "__main__":
    raise SystemExit(main())
