"""One test set through every combination: records, statistics, report, verdict. Never trains, never edits an answer."""
