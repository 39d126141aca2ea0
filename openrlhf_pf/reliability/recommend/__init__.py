"""Numbers to decisions, without sentences: ``verdict`` on the ranking, ``choose`` on the filter."""
