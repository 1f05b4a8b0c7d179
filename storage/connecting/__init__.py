"""Connections: pools of them, who holds which, and which of several servers is asked (servers.py)."""
