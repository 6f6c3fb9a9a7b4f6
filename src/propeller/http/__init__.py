"""HTTP for every role: an application with one shape of errors, a server, a client, and a twin in memory.

It knows the error tree and the limits, and nothing of tasks, rounds or models.
"""
