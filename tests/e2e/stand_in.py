#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Stands in for docker, kubectl and their like: notes how it was called, then runs the command right here.

Copied under each program's name into a directory of the test's. STAND_IN_LOG names the file for the notes.
"""

import json
import os
import sys

PLACES = ("box", "local:box")

program, words = os.path.basename(sys.argv[0]), sys.argv[1:]
with open(os.environ["STAND_IN_LOG"], "a", encoding="utf-8") as log:
    log.write(json.dumps([program, *words]) + "\n")

if words[:1] == ["version"]:
    print("Server version: 20.10.1")
elif program == "jls":
    print("box")
elif words[:1] == ["mount"]:
    sys.exit("no file system to look at")
elif words[:1] == ["cp"]:
    os.execvp("cp", ["cp", *(word.removeprefix("box:") for word in words[1:] if not word.startswith("-"))])
else:
    at = next(index for index, word in enumerate(words) if word in PLACES) + 1
    command = words[at:]
    if command[:1] == ["--"]:
        command = command[1:]
    if program == "podman" and "-i" not in words[:at]:
        # As podman does: standard input is not connected.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.execvp(command[0], command)
