"""How far a run's judged rewards can be believed: `python -m pilotrl.audit RUN_FOLDER...` (docs/audit.md)."""
