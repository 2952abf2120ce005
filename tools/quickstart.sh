#!/usr/bin/env bash
# Trains, evaluates and draws a small model on the sample scenes; see the usage text below.
set -euo pipefail
usage="Usage: bash tools/quickstart.sh [MODEL] [--with MODULE ...] [KEY VALUE ...]

Sets up .venv if needed, trains configs/quickstart/MODEL.yaml (default: mask2former) on the sample scenes, evaluates it,
draws predictions beside the ground truth, and ends with a table and the paths of the pictures. --with puts frequency
modules into the model: freqfusion, fdconv, fdam, or several of them. Everything goes to output/quickstart/MODEL, or
MODEL_MODULE... KEY VALUE pairs are configuration options, as in SOLVER.MAX_ITER 500."
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=.venv/bin/python

refuse() { { echo "quickstart: $1"; echo "$usage"; } >&2; exit 2; }

model=mask2former
case "${1:-}" in
    -h|--help) echo "$usage"; exit 0 ;;
    ""|-*|*.*) ;;                               # an option's key has a dot, a model's name has none
    *) model=$1; shift ;;
esac
config=configs/quickstart/$model.yaml
if [ ! -f "$config" ]; then
    refuse "no $config; models: $(cd configs/quickstart && ls -- *.yaml | sed 's/\.yaml$//' | paste -sd' ')"
fi
modules=()
if [ "${1:-}" = --with ]; then
    shift
    while [ $# -gt 0 ]; do
        case "$1" in *[.A-Z]*) break ;; esac    # a key of the configuration
        modules+=("$1"); shift
    done
    [ ${#modules[@]} -gt 0 ] || refuse "--with needs the name of a frequency module"
fi
case "${1:-}" in -*) refuse "unknown option $1" ;; esac
case " $* " in
    *" OUTPUT_DIR "*) refuse "the output folder is output/quickstart/MODEL; OUTPUT_DIR cannot be given" ;;
esac
output=output/quickstart/$(IFS=_; echo "$model${modules:+_}${modules[*]}")
pictures=$output/pictures

stage="" times=""
begin() { finish; stage=$1; started=$SECONDS; echo "quickstart: $stage"; }
finish() { if [ -n "$stage" ]; then times+="$(printf '%-24s %4d s' "$stage" $((SECONDS - started)))"$'\n'; fi; }
trap 'echo "quickstart: failed while $stage; the lines above say why" >&2' ERR

begin "setting up"
bash tools/setup_env.sh

module_options=()
if [ ${#modules[@]} -gt 0 ]; then
    words=$("$python" -m freqdino.commands.quickstart_options "$model" "${modules[@]}")
    read -ra module_options <<< "$words"
fi

begin "training and evaluating"
rm -rf "$output"
"$python" train_net.py --config-file "$config" "${module_options[@]}" "$@" OUTPUT_DIR "$output"

begin "drawing"
dataset=$("$python" tools/summarize_run.py --dataset "$output")
"$python" tools/demo.py --config-file "$output/config.yaml" --weights "$output/model_final.pth" \
    --dataset "$dataset" --with-ground-truth --scale 3 --max-images 6 --output "$pictures"

finish
printf '\n%s%-24s %4d s\n\n' "$times" "total" "$SECONDS"
"$python" tools/summarize_run.py "$output"
printf '\nPictures, ground truth on the left:\n'
ls "$pictures"/*.png
