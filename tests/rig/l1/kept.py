#!/usr/bin/env python3
"""kept.py REPORT - prints `yes` if a night kept layers and most entries, else what it says of itself."""
import json
import sys

report = json.load(open(sys.argv[1]))
night = report.get("night") or {}
is_right = night.get("layers_kept", 0) > 0 and night.get("kept", 0) * 2 > night.get("listed", 0) and not night.get("why_all")
print("yes" if is_right else night or report.get("in_full"))
