"""Experiments: a task under several methods and seeds, on one machine, with the market's own parts.

Imports both sides of the market, the operator's and the institution's. Nothing imports it but the
``ipfl experiment`` command, in a process of its own.
"""
