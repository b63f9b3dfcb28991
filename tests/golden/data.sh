#!/bin/bash
# The data of one golden job, as data/ below the working directory.
#   LOCKSTEP=... MAKE_DATA=... data.sh gpt|cnn|mlp-classification|mlp-regression
set -euo pipefail
case $1 in
  gpt)
    "$MAKE_DATA" text text.txt 1900
    "$LOCKSTEP" prepare text --output data --split validation=0.15 text.txt ;;
  cnn)
    "$MAKE_DATA" images images labels 155
    "$LOCKSTEP" prepare images --output data --split validation=0.3 images labels ;;
  mlp-*)
    "$MAKE_DATA" table table.csv 160 "${1#mlp-}"
    "$LOCKSTEP" prepare table --target target --output data --split validation=0.3 --shuffle 3 table.csv ;;
esac
