#!/usr/bin/env python3
"""kept.py REPORT - prints `yes` if a night kept layers, or, where the guest's own tools read, says that all was read."""
import json
import sys

report = json.load(open(sys.argv[1]))
if report["own_reader"]:
    is_right = (report.get("night") or {}).get("layers_kept", 0) > 0
else:
    is_right = "guest's own tools" in (report.get("in_full") or "")
print("yes" if is_right else report.get("night") or report.get("in_full"))
