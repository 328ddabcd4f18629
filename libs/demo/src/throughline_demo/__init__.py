"""The whole suite on one machine: a real retailer's households, one scripted client, every promise checked."""
