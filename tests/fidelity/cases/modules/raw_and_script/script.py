import sys
print("python", sys.stdout.isatty())
