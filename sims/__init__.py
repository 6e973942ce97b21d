"""Simulated worlds: the same protocol code on an event heap with virtual time.

`engine` is the clock and the hosts, `network` carries their datagrams, `latency` says how far apart they are.
"""
