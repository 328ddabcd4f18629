"""The whole suite as processes of this machine: a real bus and the five services, kept in one data folder."""

from throughline_client.suite.suite import Death, Suite, SuiteError, hold_folder

__all__ = ["Death", "Suite", "SuiteError", "hold_folder"]
