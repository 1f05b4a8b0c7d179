"""The console: what operators look at. One page, fed by server-sent events."""
