#!/usr/bin/env bash
# All that needs a GPU, in nine minutes: correctness, speed, the tests, profiles.
#
#   bash tools/gpu.sh [folder] [minutes]
#
# Needs one NVIDIA GPU, and Python with PyTorch. Results go to figures/ (or the folder), and each is
# there as soon as it is measured: gpu_NAME.csv, gpu_NAME_check.csv, gpu_NAME_profile.txt and
# gpu_NAME.json, where NAME is that of the GPU.
set -e
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
exec "$python" -m tools.gpu --folder "${1:-figures}" --minutes "${2:-9}"
