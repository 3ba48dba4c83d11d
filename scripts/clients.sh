#!/usr/bin/env bash
# Does each trainer read what `python -m coincide.export` writes? Outside CI: it installs four of them.
#
#   scripts/clients.sh [folder]     default /tmp/clients; about 2 GB beside the product's environment
#
# Each trainer gets an environment of its own with the version that stands below and what that pins;
# torch and what else fits come from the product's own .venv (PRODUCT, default .venv), which a .pth
# file adds behind. axolotl pins a torch of its own, so it is installed without its dependencies and
# with the versions of the libraries that read data. A trainer that cannot be installed is said to be
# so in docs/CLIENTS.md, which is written at the end. KEEP=1 keeps the environments.
set -uo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-/tmp/clients}")
product=$(realpath "${PRODUCT:-$here/.venv}")
python=$product/bin/python
mkdir -p "$folder/env"

environment() {  # NAME PIP-WORDS...: true when it is there
  local name=$1 place=$folder/env/$1
  shift
  [ -f "$place/.ready" ] && return
  "$python" -m venv "$place" || return
  "$python" -c 'import site; print(site.getsitepackages()[0])' \
    >"$("$place/bin/python" -c 'import site; print(site.getsitepackages()[0])')/product.pth"
  "$place/bin/python" -m pip install --quiet "$@" >"$folder/env/$name.log" 2>&1 && touch "$place/.ready"
}

install() {
  case $1 in
    llamafactory) environment llamafactory llamafactory==0.9.5 ;;
    swift) environment swift ms-swift==4.6.0 ;;
    trl) environment trl trl==1.16.0 ;;
    axolotl)
      environment axolotl --no-deps axolotl==0.19.0 trl==1.9.0 transformers==5.16.1 \
        datasets==4.8.4 peft==0.20.0 accelerate==1.13.0 huggingface_hub==1.17.0 \
        tokenizers==0.23.1 kernels addict python-dotenv ;;
  esac
}

"$python" "$here/scripts/clients/prepare.py" "$folder" || exit 1
for trainer in llamafactory swift trl axolotl; do
  rm -f "$folder/$trainer.json"
  if ! install "$trainer"; then
    echo "$trainer cannot be installed here: $folder/env/$trainer.log"
    continue
  fi
  "$folder/env/$trainer/bin/python" "$here/scripts/clients/read.py" "$trainer" "$folder" \
    >"$folder/$trainer.log" 2>&1 || echo "$trainer ended early: $folder/$trainer.log"
done
"$python" "$here/scripts/clients/table.py" "$folder" "$here/docs/CLIENTS.md"
[ "${KEEP:-}" = 1 ] || rm -rf "$folder/env"
