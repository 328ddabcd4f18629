#!/bin/sh
# Runs the pinned uv as this machine is set up: never a downloaded interpreter, and the package index and the
# certificates that pip is configured with, since uv does not read pip's configuration.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
pip_setting() {
  "$here/.tools/uv/bin/python" -m pip --disable-pip-version-check config list 2>/dev/null |
    sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | head -n 1
}

export UV_PYTHON_DOWNLOADS=never
export UV_PYTHON_PREFERENCE=only-system
if [ -z "${UV_DEFAULT_INDEX:-}" ]; then
  index=$(pip_setting index-url)
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
fi
if [ -z "${SSL_CERT_FILE:-}" ]; then
  certificates=$(pip_setting cert)
  if [ -n "$certificates" ]; then export SSL_CERT_FILE="$certificates"; fi
fi
exec "$here/.tools/uv/bin/uv" "$@"
