#!/usr/bin/env bash
# Does each trainer read what `python -m coincide.export` writes? Outside CI: it installs four of them.
#
#   scripts/clients.sh                all of it: subsets, forms, four trainers, docs/CLIENTS.md
#   scripts/clients.sh trl axolotl    go on with these trainers, where a run was cut off
#
# Half an hour on two idle cores; on a busy machine several times that. Environments, forms and logs stay
# in CLIENTS (default ~/.cache/coincide-clients, about 6 GB), so that a run that was cut off goes on by
# trainer and form, and nothing is installed twice; uv, which installs, keeps its downloads besides.
#
# Each trainer gets an environment of its own: the version that stands below, and the packages that it
# asks for as scripts/clients/NAME.txt pins them. torch comes from the product's own .venv (PRODUCT,
# default .venv), which a .pth file adds behind; axolotl pins an older torch and shares nothing (where
# there is no GPU, UV_FIND_LINKS or UV_EXTRA_INDEX_URL with torch's CPU builds saves 3 GB).
# A trainer is started by the lines that the export printed, then reads every form of every dataset.
# docs/CLIENTS.md is written at the end, and says of each what could not be done.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
product=$(realpath "${PRODUCT:-$here/.venv}")
python=$product/bin/python
folder=$(realpath -m "${CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/coincide-clients}")
trainers=(llamafactory swift trl axolotl)
mkdir -p "$folder/env"
echo "in $folder"

environment() {  # NAME shared|alone PACKAGE==VERSION: true when it is there
  local name=$1 behind=$2 package=$3 place=$folder/env/$1 pins=$here/scripts/clients/$1.txt
  local words=(--constraint "$pins" "$package")
  cmp -s "$pins" "$place/.ready" && return
  rm -rf "$place"
  "$python" -m venv --without-pip "$place" || return
  if [ "$behind" = shared ]; then
    words=(--no-deps --requirements "$pins")
    "$python" -c 'import site; print(site.getsitepackages()[0])' \
      >"$("$place/bin/python" -c 'import site; print(site.getsitepackages()[0])')/product.pth" || return
  fi
  [ -x "$folder/env/uv/bin/uv" ] || { "$python" -m venv "$folder/env/uv" &&
    "$folder/env/uv/bin/python" -m pip install --quiet uv==0.13.9 2>"$folder/env/uv.log"; } || return
  "$folder/env/uv/bin/uv" pip install --python "$place/bin/python" "${words[@]}" \
    >"$folder/env/$name.log" 2>&1 && cp "$pins" "$place/.ready"
}

install() {
  case $1 in
    llamafactory) environment llamafactory shared llamafactory==0.9.5 ;;
    swift) environment swift shared ms-swift==4.6.0 ;;
    trl) environment trl shared trl==1.16.0 ;;
    axolotl) environment axolotl alone axolotl==0.19.0 ;;
    *) echo "$1: expected one of ${trainers[*]}" && exit 2 ;;
  esac
}

broken=0
if [ $# -gt 0 ]; then
  [ -f "$folder/.prepared" ] || { echo "no forms here: run scripts/clients.sh without a name first"; exit 2; }
  trainers=("$@")
else
  rm -rf "$folder"/{.prepared,forms,data,odd,model,start} "$folder"/store-* "$folder"/*.json
  "$python" "$here/scripts/clients/prepare.py" "$folder" >"$folder/prepare.log" 2>&1 ||
    { tail -5 "$folder/prepare.log"; exit 1; }
  touch "$folder/.prepared"
fi
for trainer in "${trainers[@]}"; do
  echo "$trainer: $(date +%H:%M)"
  if ! install "$trainer"; then
    echo "$trainer cannot be installed here: $folder/env/$trainer.log"
    broken=1
    continue
  fi
  own=$folder/env/$trainer/bin/python
  [ -f "$folder/$trainer-start.json" ] || "$own" "$here/scripts/clients/start.py" "$trainer" "$folder"
  if ! "$own" "$here/scripts/clients/read.py" "$trainer" "$folder" >>"$folder/$trainer.log" 2>&1; then
    echo "$trainer ended early: $folder/$trainer.log"
    broken=1
  fi
done
"$python" "$here/scripts/clients/table.py" "$folder" "$here/docs/CLIENTS.md" || exit 1
exit "$broken"
