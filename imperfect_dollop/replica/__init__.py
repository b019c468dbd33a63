"""The decisions, and only those: input and the time go in, effects come out.

Nothing in here awaits, opens, sleeps, logs, reads a clock or draws a random number.
"""
