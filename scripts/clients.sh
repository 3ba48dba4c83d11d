#!/usr/bin/env bash
# Does each trainer read what `python -m coincide.export` writes? Outside CI: it installs four of them.
#
#   scripts/clients.sh [folder]     default: a folder of its own, removed at the end; about 10 GB
#
# Half an hour on two idle cores, most of it installing; on a busy machine several times that.
#
# Each trainer gets an environment of its own with the version that stands below and what that pins.
# What fits comes from the product's own .venv (PRODUCT, default .venv), which a .pth file adds behind;
# axolotl pins an older torch and shares nothing. A trainer reads every form of every dataset, then is
# started by the lines that the export printed. What cannot be installed is said to be so in
# docs/CLIENTS.md, which is written at the end. KEEP=1, or a trainer that failed, keeps environments
# and folder with their logs.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
product=$(realpath "${PRODUCT:-$here/.venv}")
python=$product/bin/python
if [ $# -gt 0 ]; then
  folder=$(realpath -m "$1")
else
  folder=$(mktemp -d -t clients.XXXXXX) || exit 1
fi
mkdir -p "$folder/env"
echo "in $folder"

environment() {  # NAME shared|alone PIP-WORDS...: true when it is there
  local name=$1 behind=$2 place=$folder/env/$1
  shift 2
  [ -f "$place/.ready" ] && return
  rm -rf "$place"
  "$python" -m venv "$place" || return
  if [ "$behind" = shared ]; then
    "$python" -c 'import site; print(site.getsitepackages()[0])' \
      >"$("$place/bin/python" -c 'import site; print(site.getsitepackages()[0])')/product.pth" || return
  fi
  "$place/bin/python" -m pip install --quiet "$@" >"$folder/env/$name.log" 2>&1 && touch "$place/.ready"
}

install() {
  case $1 in
    llamafactory) environment llamafactory shared llamafactory==0.9.5 ;;
    swift) environment swift shared ms-swift==4.6.0 ;;
    trl) environment trl shared trl==1.16.0 ;;
    axolotl) environment axolotl alone axolotl==0.19.0 ;;
  esac
}

broken=
"$python" "$here/scripts/clients/prepare.py" "$folder" || exit 1
for trainer in llamafactory swift trl axolotl; do
  echo "$trainer: $(date +%H:%M)"
  rm -f "$folder/$trainer.json" "$folder/$trainer-start.json"
  if ! install "$trainer"; then
    echo "$trainer cannot be installed here: $folder/env/$trainer.log"
    broken=1
    continue
  fi
  own=$folder/env/$trainer/bin/python
  "$own" "$here/scripts/clients/start.py" "$trainer" "$folder"
  if ! "$own" "$here/scripts/clients/read.py" "$trainer" "$folder" >"$folder/$trainer.log" 2>&1; then
    echo "$trainer ended early: $folder/$trainer.log"
    broken=1
  fi
done
"$python" "$here/scripts/clients/table.py" "$folder" "$here/docs/CLIENTS.md" || exit 1
if [ "${KEEP:-}" != 1 ] && [ -z "$broken" ]; then
  rm -rf "$folder/env"
  [ $# -gt 0 ] || rm -rf "$folder"
fi
