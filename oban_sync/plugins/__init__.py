"""Periodic duties, each one Loop; most of them on the leader only."""
