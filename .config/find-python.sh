#!/bin/sh
# Prints the path of the first Python on this machine that can carry the project; explains itself where there is none.
# Each candidate is run, not just looked up: a version manager's shim is on PATH even where it starts nothing.
set -u

probe='import sys
if sys.version_info < (3, 11):
    sys.exit("is Python %d.%d, older than 3.11" % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError as missing:
    sys.exit("is Python %d.%d without the %s module" % (sys.version_info[:2] + (missing.name,)))
print(sys.executable)'

tried=''
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
  command -v "$candidate" >/dev/null 2>&1 || continue
  if answer=$("$candidate" -c "$probe" 2>&1); then
    printf '%s\n' "$answer"
    exit 0
  fi
  case $answer in
    'is Python'*) ;;
    *) answer='does not start' ;;
  esac
  tried="$tried
  $candidate ($(command -v "$candidate")) $answer"
done

{
  echo 'Throughline needs Python 3.11 or newer with its venv and ensurepip modules, and found none on PATH.'
  if [ -n "$tried" ]; then printf 'Tried:%s\n' "$tried"; fi
  echo 'Install one (on Debian or Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3'
} >&2
exit 1
