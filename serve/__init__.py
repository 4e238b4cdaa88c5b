"""One query answered one way: strategy x retriever x adapter, by an engine behind a gateway.

Knows nothing of tests or scores.
"""
