#!/usr/bin/env bash
# Fine-tunes FlashSloth with TRL's own command, without Python code:
#
#     examples/trl_sft.sh MODEL DATASET OUTPUT [OPTIONS OF trl sft]
#
# On a CPU, four steps with the tiny checkpoint, which write a complete model folder to build/trl_sft:
#
#     examples/trl_sft.sh checkpoints/flashsloth-tiny examples/scenes build/trl_sft --max_steps 4 --use_cpu --bf16 false
#
# The code in the model's folder is run: read it. With a model on the Hub, name its commit (--model_revision COMMIT).
# DATASET has the columns `images` and `messages`: a name on the Hub, a folder of parquet files, or a folder of images
# with a metadata.jsonl whose `images_file_names` list those of each row.
set -euo pipefail
model=$1 dataset=$2 output=$3
shift 3
# --max_length: the default of 1024 cuts longer rows. A cut through an image's tokens stops the run.
# --assistant_only_loss: without it, the questions and the placeholders of images are learned too.
exec trl sft \
    --model_name_or_path "$model" \
    --trust_remote_code \
    --dataset_name "$dataset" \
    --output_dir "$output" \
    --max_length 3072 \
    --assistant_only_loss \
    --learning_rate 2e-5 \
    "$@"
