#!/usr/bin/python -s
# WANT_JSON
import json, sys
print(json.dumps({"changed": False, "flags": sys.flags.no_user_site}))
