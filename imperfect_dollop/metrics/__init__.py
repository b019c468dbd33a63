"""A node's figures for monitoring systems: `imperfect_dollop.metrics.prometheus`."""
