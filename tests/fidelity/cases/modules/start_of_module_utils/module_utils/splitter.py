# SPDX-License-Identifier: BSD-3-Clause
"""Has the name of one of core's own; counts how often it is imported."""

import os

SEEN = os.environ.get("SEEN")
with open("/home/worker/work/imported", "a") as file:
    file.write(f"{os.getpid()} {SEEN}\n")
