"""The pytest plugin: fixtures for tests of applications that enqueue jobs."""
