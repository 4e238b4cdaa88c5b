"""The embedded default: a small model that reads, and the synthetic world it is asked about."""
