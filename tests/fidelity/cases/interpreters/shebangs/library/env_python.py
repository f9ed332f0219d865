#!/usr/bin/env python
# WANT_JSON
import json, sys
print(json.dumps({"changed": False, "executable": sys.executable}))
