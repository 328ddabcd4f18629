"""What an auditor takes away and verifies: checkpoints and evidence packs."""
