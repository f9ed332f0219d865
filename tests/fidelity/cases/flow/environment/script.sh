#!/bin/sh
echo "$FROM_PLAY|$FROM_TASK"
