"""``--sample_filter_correct``: a reward model that keeps learning from true scores while it trains a policy."""
