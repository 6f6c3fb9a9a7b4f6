"""Worlds without hardware: the whole system under virtual time, and federations of virtual clients."""
