"""PilotRL: train language-model agents that plan, and measure whether planning helped."""

from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).resolve().parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""Values of the configuration: inside an installed wheel, or beside the package in a checkout."""
