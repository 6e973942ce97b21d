"""Scenarios: what happens in a simulated world, from a TOML file, and what was seen.

`parts` says what workloads, probes, faults, arrivals, churn and attacks are, `catalogue` names them, `plan` reads the
file, `perform` does one run of it.
"""
