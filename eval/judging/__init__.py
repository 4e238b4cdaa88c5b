"""What a judge says about the answers of a run."""
