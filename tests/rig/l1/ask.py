#!/usr/bin/env python3
"""ask.py FILE EXPRESSION - prints what a Python expression says of `it`, the JSON in FILE."""
import json
import sys

print(eval(sys.argv[2], {"it": json.load(open(sys.argv[1]))}))
