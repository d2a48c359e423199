#!/usr/bin/env bash
# Fine-tunes FlashSloth by TRL's own command, without a line of Python. More words go to it as they are:
#
#     examples/trl_sft.sh MODEL DATASET OUTPUT [--max_steps 4 ...]
#     examples/trl_sft.sh checkpoints/flashsloth-tiny examples/scenes build/trl_sft --max_steps 4 --use_cpu
#
# The code that comes with the model is run: read it, and name the commit of a model on the Hub (--model_revision COMMIT).
# DATASET is what `datasets.load_dataset` opens and holds `images` and `messages`: a name on the Hub, a folder of parquet
# files, or a folder of pictures with a metadata.jsonl whose `images_file_names` list each row's.
set -euo pipefail
model=$1 dataset=$2 output=$3
shift 3
# --max_length: the default of 1024 cuts longer rows; one that cuts an image's tokens stops the run.
# --assistant_only_loss: without it the questions and the placeholders of pictures are learned too.
exec trl sft \
    --model_name_or_path "$model" \
    --trust_remote_code \
    --dataset_name "$dataset" \
    --output_dir "$output" \
    --max_length 3072 \
    --assistant_only_loss \
    --learning_rate 2e-5 \
    "$@"
