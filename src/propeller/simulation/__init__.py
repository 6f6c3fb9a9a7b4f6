"""Worlds without hardware: the whole system in one process, under a clock and faults drawn from a seed."""
