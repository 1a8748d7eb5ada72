"""The threads: they wake, call the engine, and run jobs."""
