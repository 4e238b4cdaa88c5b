"""SQL that nobody trusts, run so that it can harm nothing."""
