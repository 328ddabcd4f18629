"""Starts ingestion: `python -m ingestion`."""

from ingestion.bootstrap import main

if __name__ == "__main__":
    raise SystemExit(main())
