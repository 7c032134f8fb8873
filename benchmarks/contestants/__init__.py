"""
The contestants, one module each: a class `Contestant` with a method for every task it can do.

A method gives (amount, seconds): rows, or tokens, or 1 where the seconds themselves are the result.
Loading is not in the time, nor is a warm-up; `start` measures a whole process from nothing.
"""
