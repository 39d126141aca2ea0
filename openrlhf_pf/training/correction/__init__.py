"""``--sample_filter_correct``: a reward model that goes on learning from true scores while it trains a policy."""
