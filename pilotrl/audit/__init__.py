"""The audit: checks how far the judged rewards of a run can be trusted, `python -m pilotrl.audit` (docs/audit.md)."""
