"""The console: what operators look at. One page, fed by server-sent events.

`routes.py` says what there is. `hub.py` looks at the server while somebody watches, `snapshot.py` puts together what the page
draws; `figures.py`, `comparison.py` and `findings.py` reckon, and are pure. docs/console.md is for those who use it.
"""
