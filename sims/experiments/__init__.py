"""The parts of scenarios behind the seven experiments: what is done to rings of product nodes, and what is seen.

`lookups`, `machines`: workloads; `ring`, `traffic`, `paths`: probes; `members`: churns, faults and attacks. Each module
says which rows it records. None of them changes what a node does but through its seams.
"""
