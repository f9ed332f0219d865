#!/bin/sh
echo before
exit 3
