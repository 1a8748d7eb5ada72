"""The words of the library: jobs, workers, outcomes, options. Pure: no I/O, no threads."""
