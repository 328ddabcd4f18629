"""One formula a module, each with its source."""
