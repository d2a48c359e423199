# Copyright 2026 The FlashSloth team. Licensed under the Apache License, Version 2.0.
"""TRL's SFTTrainer with rows grouped by length, learning rates by module, safe checkpoints, and more in the log."""

import sys
import time
from pathlib import Path

import torch
from accelerate.data_loader import IterableDatasetShard, SeedableRandomSampler
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from huggingface_hub.constants import REPOCARD_NAME
from torch import nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import EarlyStoppingCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from flashsloth.train.collator import IGNORED, Collator
from flashsloth.train.data.sampling import FilledRows, FilledSampler, ModalityLengthSampler
from flashsloth.train.data.streams import EndlessStream, StreamFilter
from flashsloth.train.evaluation import EXACT_MATCH, num_exact_matches
from flashsloth.train.optimizers import by_learning_rate
from flashsloth.train.resume import PREFIX, clear_write_errors, mark_complete, remove, rotate
from flashsloth.train.sharding import gather_head_before_loss, unsharded_class


CHARACTERS_PER_TOKEN = 4  # of English text, about: to compare the lengths of images and text
NOT_DECAYED = "query_tokens"  # vectors, though they are the rows of a matrix


class FlashSlothTrainer(SFTTrainer):
    """
    Trains a FlashSloth.

    Args:
        model ([`FlashSlothForCausalLM`]): The model. Its parameters that require a gradient are trained. For an
            adapter, pass `peft_config`.
        args (`trl.SFTConfig`): `train_sampling_strategy` is "group_by_length" ([`ModalityLengthSampler`]), "random" or
            "sequential".
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`): The rows, as `load_data` returns them. Each
            process reads its own part of a stream, which is shuffled and repeated without end.
        processing_class ([`FlashSlothProcessor`])
        learning_rates (`dict[str, float]`, *optional*): Learning rates by module name, in place of
            `args.learning_rate`. The longest name that fits a parameter decides.
        stream_filter ([`StreamFilter`], *optional*): Selects the rows of a stream that are trained on; all if unset.
        exact_match_dataset (`datasets.Dataset`, *optional*): Rows whose last answer an evaluation also generates, for
            the metric `eval_exact_match`.

        The others are those of `trl.SFTTrainer`.

    Raises:
        ValueError: If `learning_rates` names a module that does not train, or the dataset lacks columns.
        OSError: While training, if a checkpoint cannot be written; earlier ones stay as they are.
    """

    def __init__(
        self,
        model,
        args: SFTConfig,
        *,
        processing_class,
        learning_rates: dict[str, float] | None = None,
        stream_filter: StreamFilter | None = None,
        exact_match_dataset: Dataset | None = None,
        **kwargs,
    ):
        self.exact_match_dataset = exact_match_dataset
        self._eval_dataloader = None
        self._eval_losses = []  # of each batch of this process: the sum over the tokens of answers, and their number
        self.stream_filter = stream_filter
        self.learning_rates = learning_rates or {}
        self._sampler = None
        self._first_step = None  # global step and time at the first step of this process
        self._last_log = None  # tokens, visual tokens and time since the last log
        self._module_rates = {}  # of this step; the scheduler has moved on when it is logged
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # the collator makes every batch use all of them
        collator = Collator(
            processor=processing_class,
            max_length=args.max_length,
            pad_to_multiple_of=args.pad_to_multiple_of,
            assistant_only_loss=args.assistant_only_loss,
        )
        gather_head_before_loss(model)
        super().__init__(model, args, data_collator=collator, processing_class=processing_class, **kwargs)
        self.add_callback(_SetEpoch(self))

    # Order

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # For the collator: the id that an error names a row by, and the mark of rows that only fill a batch up.
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, "id", "is_filler"]))

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, IterableDataset):
            rows = FilledRows(self.train_dataset)
            return self._get_dataloader(rows, "Training", self._train_batch_size, self._get_train_sampler, True)
        stream = EndlessStream(self.train_dataset, self._data_seed, self.stream_filter)
        dataloader = self._get_dataloader(stream, "Training", self._train_batch_size)
        if isinstance(dataloader.dataset, IterableDatasetShard):
            # accelerate would split the rows between processes, which `load_data` has done.
            dataloader.dataset.num_processes, dataloader.dataset.process_index = 1, 0
        return dataloader

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _get_train_sampler(self, train_dataset=None) -> Sampler:
        is_filled = self.args.world_size > 1 and not self.args.dataloader_drop_last
        multiple = self._train_batch_size * self.args.world_size if is_filled else 1
        # accelerate would replace a random sampler by one of another order; it does not find one within this sampler.
        return FilledSampler(self._train_order(train_dataset), multiple)

    def _train_order(self, train_dataset) -> Sampler:
        if self.args.train_sampling_strategy == "sequential":
            return SequentialSampler(train_dataset)
        if self.args.train_sampling_strategy == "random":
            self._sampler = SeedableRandomSampler(
                train_dataset, generator=torch.Generator(), data_seed=self._data_seed
            )
            return self._sampler
        missing = {"length", "num_images"} - set(self.train_dataset.column_names)
        if missing:
            raise ValueError(
                f"The data has no column {' and '.join(sorted(missing))} to group rows by: load it by "
                "flashsloth.train.data.sources.load_data, or set train_sampling_strategy=random"
            )
        processor = self.processing_class
        tokens_per_image = processor.num_visual_tokens * processor.image_processor.num_views()
        num_images = torch.tensor(self.train_dataset["num_images"][:])
        lengths = torch.tensor(self.train_dataset["length"][:]) // CHARACTERS_PER_TOKEN
        self._sampler = ModalityLengthSampler(
            lengths + tokens_per_image * num_images,
            num_images,
            self._train_batch_size,
            self.args.world_size,
            self.args.gradient_accumulation_steps,
            self._data_seed,
        )
        return self._sampler

    def _run_epoch(self, *args, **kwargs) -> None:
        # A run that was stopped between its last checkpoint and its end has no step left. The library would take one
        # more before it stops.
        if self.state.global_step >= self.state.max_steps or self._has_stopped_early():
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _has_stopped_early(self) -> bool:
        return any(
            callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
            if isinstance(callback, EarlyStoppingCallback)
        )

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        if self._eval_dataloader is None:
            rows = FilledRows(self.eval_dataset if eval_dataset is None else eval_dataset)
            self._eval_dataloader = self._get_dataloader(
                rows, "Evaluation", self.args.eval_batch_size, self._get_eval_sampler
            )
        return self._eval_dataloader

    def _get_eval_sampler(self, eval_dataset) -> Sampler:
        is_filled = self.args.world_size > 1 or self.args.dataloader_drop_last  # which drops rows of evaluations too
        multiple = self.args.eval_batch_size * self.args.world_size if is_filled else 1
        return FilledSampler(SequentialSampler(eval_dataset), multiple)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        start = time.perf_counter()
        metrics = super().evaluate(*args, **kwargs)
        if self._first_step is not None:  # the speed and the time left are those of steps
            paused = time.perf_counter() - start
            (step, first), (counted, since) = self._first_step, self._last_log
            self._first_step, self._last_log = (step, first + paused), (counted, since + paused)
        return metrics

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        num_tokens = int((inputs["labels"][:, 1:] != IGNORED).sum())
        self._eval_losses.append((loss.item() * num_tokens, num_tokens))
        return loss, logits, labels

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        """The library's, with the loss as a mean over tokens, however the rows are batched, and exact matches."""
        self._eval_losses = []
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        losses, counts = zip(*gather_object(self._eval_losses), strict=True)
        output.metrics[f"{metric_key_prefix}_loss"] = sum(losses) / max(1, sum(counts))
        if self.exact_match_dataset is not None:
            rows = list(range(self.args.process_index, len(self.exact_match_dataset), self.args.world_size))
            with self.accelerator.autocast():
                matches = num_exact_matches(
                    self.model, self.processing_class, self.exact_match_dataset, rows, self.args.eval_batch_size
                )
            share = sum(gather_object([matches])) / len(self.exact_match_dataset)
            output.metrics[f"{metric_key_prefix}_{EXACT_MATCH}"] = share
        return output

    # Optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        return [name for name in super().get_decay_parameter_names(model) if NOT_DECAYED not in name.split(".")]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None and self.learning_rates:
            model = self.model if model is None else model
            optimizer_class, arguments = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = optimizer_class(self._parameter_groups(model), **arguments)
        return super().create_optimizer(model)

    def _parameter_groups(self, model: nn.Module) -> list[dict]:
        """Two groups, with and without decay, for each learning rate; those of `args.learning_rate` come first."""
        decayed = set(self.get_decay_parameter_names(model))
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        return [
            {
                "params": parameters,
                "lr": self.learning_rates.get(module, self.args.learning_rate),
                "weight_decay": self.args.weight_decay if is_decayed else 0.0,
                "module": module,
            }
            for module, members in by_learning_rate(trained, self.learning_rates).items()
            for is_decayed in (True, False)
            if (parameters := [parameter for name, parameter in members if (name in decayed) == is_decayed])
        ]

    # Log

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        if self._first_step is None:
            self._first_step = self.state.global_step, time.perf_counter()
            self._last_log = torch.zeros(2, dtype=torch.long), time.perf_counter()
        is_text = inputs["attention_mask"] == 1
        is_image = is_text & (inputs["input_ids"] == self.processing_class.image_token_id)
        counted, since = self._last_log
        self._last_log = counted.to(is_text.device) + torch.stack([is_text.sum(), is_image.sum()]), since
        if self.learning_rates:
            groups = [group for group in self.optimizer.param_groups if group["module"] is not None]
            self._module_rates = {f"learning_rate/{group['module']}": group["lr"] for group in groups}
        return super().training_step(model, inputs, num_items_in_batch)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._module_rates | self._speed_and_memory()
        super().log(logs, start_time)

    def _speed_and_memory(self) -> dict[str, float]:
        """Tokens per second of all processes, the largest memory of one in 10^9 bytes, the time left in seconds."""
        counted, since = self._last_log
        tokens, visual_tokens = self.accelerator.reduce(counted.to(self.args.device), "sum").tolist()
        peak_memory = self.accelerator.gather(torch.tensor([_peak_memory()], device=self.args.device)).max().item()
        now = time.perf_counter()
        first_step, start = self._first_step
        time_per_step = (now - start) / (self.state.global_step - first_step)
        self._last_log = torch.zeros_like(counted), now
        return {
            "tokens_per_second": round(tokens / (now - since), 1),
            "visual_tokens_per_second": round(visual_tokens / (now - since), 1),
            "peak_memory_gb": round(peak_memory / 1e9, 3),
            "time_left": round(time_per_step * (self.state.max_steps - self.state.global_step), 1),
        }

    # Checkpoints

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        result = super()._init_training_state(*args, **kwargs)
        # The library finds the best checkpoint of a resumed run by the path that it had.
        best = Path(self.args.output_dir) / f"{PREFIX}{self.state.best_global_step}"
        if self.state.best_global_step and best.is_dir():
            self.state.best_model_checkpoint = str(best)
        return result

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with unsharded_class(self.model):
            super()._save(output_dir, state_dict)
        # PEFT's model card of an adapter, with paths of this machine; `flashsloth push` writes the card.
        (Path(output_dir or self.args.output_dir) / REPOCARD_NAME).unlink(missing_ok=True)

    def create_model_card(self, *args, **kwargs) -> None:
        """Writes none: a card in the output folder would be of no use to the model's folder, and `push` writes one."""

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        folder = Path(self.args.output_dir) / f"{PREFIX}{self.state.global_step}"
        if self.args.should_save and folder.exists():
            remove(folder)  # incomplete, or of a run that this one repeats
        self.accelerator.wait_for_everyone()
        # The library removes old checkpoints as soon as the new one is written; here it has to be complete first.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with clear_write_errors(folder):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    mark_complete(folder)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            rotate(self.args.output_dir, limit, self.state.best_model_checkpoint)


class _SetEpoch(TrainerCallback):
    """Sets the sampler's epoch, which the library does not do in a resumed epoch of several processes."""

    def __init__(self, trainer: FlashSlothTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer._sampler is not None:
            self.trainer._sampler.set_epoch(int(state.epoch))


def _peak_memory() -> float:
    """The most bytes that this process has held so far: on its CUDA device, or without one in main memory."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource  # Windows has none, but may have CUDA

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)
