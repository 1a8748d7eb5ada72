"""The programs that are measured, each run in a process of its own by the benchmarks beside.

They read one JSON object on standard input and write one on standard output.
"""
