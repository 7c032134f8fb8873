"""
What is installed here, what it can use, and what is wrong: a list of findings, each problem with its remedy.

`examine` asks everything; `probe` runs in a process of its own and asks llama.cpp; `hardware` looks for
graphics processors without it; `speed` takes a reading of two seconds.
"""
