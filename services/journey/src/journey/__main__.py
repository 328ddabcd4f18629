"""Starts journey: `python -m journey`."""

from journey.bootstrap import main

if __name__ == "__main__":
    raise SystemExit(main())
