"""Thin programs around the rooms: the demo, its world and model, training chats, fetching, benchmarks."""
