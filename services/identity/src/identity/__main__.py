"""Starts identity: `python -m identity`."""

from identity.bootstrap import main

if __name__ == "__main__":
    raise SystemExit(main())
