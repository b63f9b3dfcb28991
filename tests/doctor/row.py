#!/usr/bin/env python3
"""A row of doctor's JSON: row.py FILE SUBJECT FIELD prints the field of the worst row of that subject; lists with commas."""
import json
import sys

path, subject, field = sys.argv[1:]
with open(path) as file:
    text = file.read()
rows = [row for row in json.loads(text)['rows'] if row['subject'] == subject] if text.startswith('{') else []
if rows:
    row = max(rows, key=lambda r: ['ok', 'warn', 'fail'].index(r['status']))
    value = row[field]
    print(','.join(map(str, value)) if isinstance(value, list) else '' if value is None else value)
