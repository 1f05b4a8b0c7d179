"""`sluice compare`: channel against direct, measured and judged. Read comparison.py first; see docs/compare.md."""
