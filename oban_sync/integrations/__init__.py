"""Oban in the frameworks and servers of applications."""
