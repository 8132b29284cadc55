# Sourced by the other scripts: makes .venv beside the sources with the tested versions, or reuses it.
# Arguments: extras of pyproject.toml to install as well. Leaves the environment activated.

python=$(command -v python3.11 || command -v python3 || true)
if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "shrinkboard needs Python 3.11 or newer; found: ${python:-none}" >&2
    exit 2
fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
# shellcheck disable=SC1091
source .venv/bin/activate
extras=$(IFS=,; echo "$*")
wanted=$(cat pyproject.toml constraints.txt | cksum)
stamp=".venv/installed-${extras:-core}"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".${extras:+[$extras]}"
    echo "$wanted" > "$stamp"
fi
