"""PilotRL: train language-model agents that plan, and measure whether planning helped."""

import signal
import sys
from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).resolve().parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
"""Values of the configuration: inside an installed wheel, or beside the package in a checkout."""

if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while a command is imported, Ctrl-C ends it without a traceback
