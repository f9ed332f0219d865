#!/usr/bin/python3
# WANT_JSON
import json
import sys

with open(sys.argv[1]) as file:
    given = json.load(file)
print(
    json.dumps(
        {"changed": False, "style": "want json", "given": {key: given[key] for key in ("text", "number")}}
    )
)
