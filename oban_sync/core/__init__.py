"""The words of the library: jobs, workers, outcomes, options. Pure: no input or output, no threads."""
