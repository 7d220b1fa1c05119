#!/usr/bin/env bash
# Measures every table of docs/benchmarks.md again and writes it there: reproduce.sh FOLDER
# FOLDER takes the checkpoint, converted files and results. Peers whose interpreter is given are compared with:
#   LLAMA_CPP_PYTHON=llama/bin/python LLAMA_CPP_AVX2_PYTHON=llama_avx2/bin/python VLLM_PYTHON=vllm/bin/python \
#     benchmarks/reproduce.sh /tmp/quire-bench
# Others: PYTHON (python3), THREADS (2), ROUNDS (3), SHAPE (qwen3-0.6b). docs/benchmarks.md tells how peers are installed.
set -euo pipefail
folder=$1
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3} threads=${THREADS:-2} rounds=${ROUNDS:-3} shape=${SHAPE:-qwen3-0.6b}
page=$here/../docs/benchmarks.md
checkpoint=$folder/$shape
mkdir -p "$folder"
[ -e "$checkpoint/model.safetensors" ] || "$python" "$here/make_checkpoint.py" --shape "$shape" --out "$checkpoint"

compare() {  # MARK OUR_FORMATS LLAMA_CPP_PYTHON LLAMA_CPP_FORMATS VLLM_FORMATS VLLM_OPTIONS OTHER_WORDS...
  local peers=()
  [ -z "$3" ] || peers+=(--peer llama-cpp --python "$3" --peer-formats "$4" --peer-options '{}')
  [ -z "${VLLM_PYTHON:-}" ] || peers+=(--peer vllm --python "$VLLM_PYTHON" --peer-formats "$5" --peer-options "$6")
  if [ ${#peers[@]} -eq 0 ]; then
    echo "no peer to fill in $1 with: neither LLAMA_CPP_PYTHON (LLAMA_CPP_AVX2_PYTHON) nor VLLM_PYTHON is set" >&2
    return
  fi
  "$python" "$here/compare.py" "$checkpoint" --formats "$2" "${peers[@]}" --threads "$threads" --rounds "$rounds" \
    --starts "$rounds" --scratch "$folder" --out "$folder/$1" --refill "$page#$1" "${@:7}"
}

compare floats bfloat16 "${LLAMA_CPP_PYTHON:-}" BF16,F16 "${VLLM_FORMATS:-bfloat16}" '{}'
compare integers int8,int4 "${LLAMA_CPP_PYTHON:-}" Q8_0,Q4_0 "${VLLM_FORMATS:-bfloat16}" '{}'
compare avx2-floats bfloat16 "${LLAMA_CPP_AVX2_PYTHON:-}" BF16,F16 float32 '{"isa": "avx2"}' --device-option kernels=avx2
compare avx2-integers int8,int4 "${LLAMA_CPP_AVX2_PYTHON:-}" Q8_0,Q4_0 float32 '{"isa": "avx2"}' --device-option kernels=avx2

{
  bench() { "$python" -m quire.cli.main bench "$@"; }
  engine=("$checkpoint" -d cpu --device-option "threads=$threads")
  for format in bfloat16 int8 int4; do
    scheme=(--quantization "$format")
    [ "$format" != bfloat16 ] || scheme=(--dtype bfloat16)
    echo "$format:"
    echo
    echo '```'
    bench latency "${engine[@]}" "${scheme[@]}" --max-model-len 2048 --input-len 512 --output-len 64 --repeats "$rounds"
    bench latency "${engine[@]}" "${scheme[@]}" --max-model-len 8192 --input-len 4096 --output-len 64 --repeats 1
    bench throughput "${engine[@]}" "${scheme[@]}" --max-model-len 2048 --repeats "$rounds"
    bench startup "${engine[@]}" "${scheme[@]}" --max-model-len 2048 --skip-tokenizer-init --repeats "$rounds"
    bench startup "${engine[@]}" "${scheme[@]}" --max-model-len 2048 --skip-tokenizer-init --repeats "$rounds" \
      --device-option "packed_weights=$folder/packed"
    echo '```'
    echo
  done
} | sed "s#$folder/##g" > "$folder/alone.md"
PYTHONPATH=$here "$python" - "$page" "$folder/alone.md" <<'PY'
import sys
from pathlib import Path

from comparison.markdown import refill

refill(Path(sys.argv[1]), "alone", Path(sys.argv[2]).read_text(encoding="utf-8"))
PY
