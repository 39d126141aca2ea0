"""``--sample_filter_correct``: few true scores of the policy's own samples correct the reward model."""
