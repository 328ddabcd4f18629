"""A release of Throughline on Kubernetes: what is wrong with it, work done in it, and ways into it."""
