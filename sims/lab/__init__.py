"""Real nodes in network namespaces of this machine (Linux, root or an unprivileged user namespace).

Every module in this package is a shell: it starts processes and waits for them. Nothing outside it imports it.
"""
