"""Documents become passages, an index on disk, and hits. Knows nothing of prompts, models or scores."""
