# SPDX-License-Identifier: BSD-3-Clause
# The stage: what the launcher runs in the interpreter it has found. It says READY, reads exactly the
# agent's bytes and runs them in the same interpreter. The launcher has put these names here:
#   sys    the module; its path has lost the empty entry already, so no file in the current
#          directory can stand in for a module imported below
#   NONCE  what READY repeats, so that the caller can tell it from the noise of start-up files
#   SIZE   how many bytes follow
# os.read() and not sys.stdin: a buffered reader would swallow the first frames behind the source.
import os, signal, zlib
signal.alarm(120)
os.write(1, ("FATLINE-READY %s %x\n" % (NONCE, sys.hexversion)).encode())
pieces = []
while SIZE > 0:
    piece = os.read(0, SIZE)
    if not piece:
        os._exit(75)
    SIZE -= len(piece)
    pieces.append(piece)
signal.alarm(0)
SOURCE = "".encode().join(pieces)
exec(compile(zlib.decompress(SOURCE), "fatline-agent.py", "exec"), {"__name__": "fatline_agent", "SOURCE": SOURCE})
