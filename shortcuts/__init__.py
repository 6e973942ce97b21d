"""Direct paths and proxy tunnels between nodes that talk: demand, candidates, checks, switching.

Empty in this version: peers without an edge of their own are reached over the overlay.
"""
