"""Measurements of oban_sync beside what bounds it and what it competes with; see README.md."""
