#!/bin/bash
# Bad input to prepare: one line, and no dataset or part of one.
#   inputs.sh LOCKSTEP MAKE_DATA
LOCKSTEP=$1 MAKE_DATA=$2
# shellcheck source=tests/fault/refusals.sh
. "$(dirname "$(realpath "$0")")/refusals.sh"

"$MAKE_DATA" text text.txt 1900
"$MAKE_DATA" images images labels 40
"$MAKE_DATA" images images2 labels2 30
"$MAKE_DATA" table table.csv 60 classification
: >nothing
mkdir folder full
echo important >full/letter
text=(prepare text --output out/data)
images=(prepare images --output out/data)
table=(prepare table --target target --output out/data)

# Files of every kind
for format in text images table; do
  options=()
  [ $format = table ] && options=(--target target)
  inputs=(none)
  [ $format = images ] && inputs=(none labels)
  refused "$format: missing file" 2 1 'none' 'No such file' -- prepare $format "${options[@]}" --output out/data "${inputs[@]}"
  inputs[0]=nothing
  refused "$format: empty file" 65 1 'nothing' 'empty' -- prepare $format "${options[@]}" --output out/data "${inputs[@]}"
  inputs[0]=folder
  refused "$format: directory" 2 1 'folder' 'directory' -- prepare $format "${options[@]}" --output out/data "${inputs[@]}"
done
refused 'missing file' 2 2 'none' 'No such file' -- "${text[@]}" none
refused 'missing file after a good one' 2 1 'none' 'No such file' -- "${text[@]}" text.txt none
refused 'text too short to cut' 2 1 'validation' -- "${text[@]}" --split validation=0.001 text.txt

# Tables
{ head -n 20 table.csv; echo '1,2,3'; tail -n 20 table.csv; } >ragged.csv
refused 'ragged row' 65 1 'ragged.csv:21' '3' '5' -- "${table[@]}" ragged.csv
refused 'ragged row' 65 2 'ragged.csv:21' '3' '5' -- "${table[@]}" ragged.csv
refused 'no such target' 2 1 'targte' 'did you mean "target"' -- prepare table --target targte --output out/data table.csv
refused 'no target named' 2 1 '--target' -- prepare table --output out/data table.csv
{ head -n 20 table.csv; echo '1,2,"3,red,low'; } >quote.csv
refused 'a quote that is left open' 65 1 'quote.csv:21' -- "${table[@]}" quote.csv
head -n 1 table.csv >header.csv
refused 'header alone' 65 1 'header.csv' -- "${table[@]}" header.csv
sed '1s/b,/a,/' table.csv >twins.csv
refused 'two columns of one name' 65 1 'twins.csv' '\ba\b' -- "${table[@]}" twins.csv
sed '1s/colour/hue/' table.csv >other.csv
refused 'second file with other columns' 65 1 'other.csv' 'hue|colour' -- "${table[@]}" table.csv other.csv
sed 's/,[a-z]*$/,/; 1s/,$/,target/' table.csv >blank.csv
refused 'no row with a target' 65 1 'target' -- "${table[@]}" blank.csv
refused 'a class of text as a number' 65 1 'target' 'holds numbers' 'target:category' -- "${table[@]}" --task regression table.csv

# Images
refused 'label out of range' 65 1 'labels' 'label' '\b2\b' -- "${images[@]}" --classes 2 images labels
refused 'label out of range' 65 2 'labels' '\b2\b' -- "${images[@]}" --classes 2 images labels
head -c 3000 images >short
refused 'images cut short' 65 1 'short' '3000' '4016' -- "${images[@]}" short labels
refused 'images cut short' 65 2 'short' '3000' '4016' -- "${images[@]}" short labels
head -c 10 images >stub
refused 'images cut in the header' 65 1 'stub' -- "${images[@]}" stub labels
head -c 30 labels >few
refused 'labels cut short' 65 1 'few' '30' '48' -- "${images[@]}" images few
refused 'more images than labels' 65 1 '40' '30' -- "${images[@]}" images labels2
refused 'not an IDX' 65 1 'text.txt' 'IDX' -- "${images[@]}" text.txt labels
refused 'labels alone' 2 1 'labels' 'images' -- "${images[@]}" labels labels2
refused 'images without labels' 2 1 'labels' -- "${images[@]}" images
gzip -k images
flip images.gz 900
refused 'corrupt gz' 65 1 'images.gz' -- "${images[@]}" images.gz labels
head -c 1000 images.gz >short.gz
refused 'gz cut short' 65 1 'short.gz' -- "${images[@]}" short.gz labels
{ cat images; echo more; } >long
refused 'bytes after the last image' 65 1 'long' -- "${images[@]}" long labels

# Places
works 'prepare' 1 prepare text --output data text.txt
refused 'output exists' 2 1 'data' 'exists' '--force' -- prepare text --output data text.txt
refused 'output exists' 2 2 'data' 'exists' '--force' -- prepare text --output data text.txt
refused 'output is a folder of other things' 2 1 'full' '--output' -- prepare text --output full --force text.txt
refused 'output is a file' 2 1 'text.txt' -- prepare text --output text.txt --force text.txt
refused 'bad input with --force keeps the old' 65 1 'nothing' -- prepare text --output data --force nothing
refused 'read-only place' 74 1 '/proc/dataset:' -- prepare text --output /proc/dataset text.txt
refused 'read-only place' 74 2 '/proc/dataset:' -- prepare text --output /proc/dataset text.txt
refused 'output below a file' 74 1 'text.txt' -- prepare text --output text.txt/data text.txt
works 'prepare with --force' 1 prepare text --output data --force text.txt
say_result
