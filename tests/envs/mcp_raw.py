"""An MCP server that lists whatever a file holds, be it no list of tools: `python mcp_raw.py FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

said = Path(sys.argv[1]).read_text()
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    started = {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "x", "version": "1"},
    }
    answers = {"initialize": json.dumps(started), "tools/list": said}
    missing = '"error": {"code": -32601, "message": "no such method"}'
    result = f'"result": {answers[asked["method"]]}' if asked["method"] in answers else missing
    print(f'{{"jsonrpc": "2.0", "id": {json.dumps(asked["id"])}, {result}}}', flush=True)
