"""What to write instead of an unknown key: its new name, the key that another framework's word means, or a similar one.

The message around it is made in `loading.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

from effdet.config.migration import RENAMED_IN_2, RENAMED_IN_2_FOR_CLASSIFICATION
from effdet.config.schema import TASKS, Config
from effdet.config.section import keys_of

_RENAMED = {**RENAMED_IN_2, **RENAMED_IN_2_FOR_CLASSIFICATION}

# Words that people know from other frameworks, in any section, and the keys that they mean.
_OTHER_WORDS = {
    "model.name": "arch architecture model_name net network variant",
    "model.num_classes": "classes nc n_classes numclasses",
    "model.image_size": "img imgsz img_size imagesize img_scale input_size input_shape resolution size",
    "model.weights": "checkpoint finetune init_weights load_from pretrain pretrained pretrained_weights",
    "model.backbone_weights": "pretrained_backbone",
    "model.drop_path": "drop_path_rate stochastic_depth survival_prob",
    "model.dropout": "drop drop_rate dropout_rate",
    "model.norm_momentum": "batch_norm_momentum bn_momentum",
    "model.letterbox": "keep_aspect keep_aspect_ratio keep_ratio letter_box letterbox_mode resize_mode stretch",
    "model.anchor_aspects": "anchor_ratios aspect_ratios",
    "data.root": "data_dir data_path data_root dataset dataset_dir datadir folder path",
    "data.classes": "class_names classes names",
    "data.workers": "dataloader_workers n_workers num_workers",
    "data.rectangular": "rect",
    "augment.horizontal_flip": "fliplr flip flip_prob hflip random_flip",
    "augment.multi_scale": "multiscale",
    "augment.scale_jitter": "jitter large_scale_jitter lsj",
    "augment.photometric": "color_jitter hsv photometric_distortion",
    "augment.close_mosaic_epochs": "close_mosaic",
    "augment.crop_area": "crop_scale",
    "augment.crop_aspect": "crop_ratio",
    "augment.cutmix_alpha": "cutmix",
    "augment.mixup_alpha": "mixup",
    "augment.random_erasing": "erasing random_erase reprob",
    "augment.rand_augment.layers": "aa auto_augment autoaugment randaugment",
    "optim.name": "opt optimiser optimizer solver",
    "optim.learning_rate": "base_lr init_lr lr lr0 peak_lr",
    "optim.lr_multipliers": "backbone_lr lr_mult paramwise_cfg",
    "optim.layer_decay": "layerwise_decay llrd",
    "optim.weight_decay": "decay l2 wd",
    "optim.momentum": "beta1 betas",
    "optim.warmup_epochs": "warmup warmup_iters warmup_steps",
    "optim.warmup_start_factor": "warmup_bias_lr warmup_factor warmup_lr warmup_ratio",
    "optim.schedule": "cos_lr lr_policy lr_schedule lr_scheduler sched scheduler",
    "optim.grad_clip_norm": "clip_grad clip_grad_norm clip_gradients grad_clip gradient_clip gradient_clip_val",
    "train.epochs": "max_epochs n_epochs num_epochs num_train_epochs",
    "train.max_steps": "iterations iters max_iter max_iters num_steps steps total_steps",
    "train.batch_size": "batch batchsize bs images_per_batch ims_per_batch samples_per_gpu train_batch_size",
    "eval.batch_size": "batch eval_batch_size val_batch_size",
    "train.accumulation_steps": "accum accum_steps accumulate_grad_batches accumulation grad_accum "
    "gradient_accumulation gradient_accumulation_steps",
    "train.activation_checkpointing": "grad_checkpointing gradient_checkpointing use_checkpoint",
    "train.precision": "amp bf16 bfloat16 dtype fp16 half mixed_precision use_amp",
    "train.compile": "torch_compile torchcompile",
    "train.ema_decay": "ema model_ema moving_average",
    "train.freeze": "freeze_backbone freeze_layers frozen",
    "train.batch_norm": "batchnorm bn freeze_bn sync_batchnorm sync_bn syncbn",
    "train.log_every": "log_interval log_period print_freq",
    "train.save_every_minutes": "save_interval save_period",
    "train.max_hours": "max_time time_limit",
    "train.patience": "early_stop early_stopping early_stopping_patience",
    "train.deterministic": "cudnn_deterministic",
    "eval.every_epochs": "check_val_every_n_epoch eval_every eval_interval val_interval val_period",
    "log.trackers": "logger loggers mlflow tensorboard tracker wandb",
    "log.project": "experiment wandb_project",
    "loss.label_smoothing": "smoothing",
    "loss.alpha": "focal_alpha",
    "loss.gamma": "fl_gamma focal_gamma",
    "loss.box_weight": "box box_loss_weight",
    "loss.iou": "box_iou_loss iou_loss iou_type",
    "loss.class_weights": "cls_weights",
    "postprocess.score_threshold": "conf conf_thres conf_thresh conf_threshold confidence "
    "confidence_threshold score_thr score_thresh",
    "postprocess.iou_threshold": "iou_thr iou_thres iou_thresh nms_iou nms_iou_threshold nms_thresh nms_threshold",
    "postprocess.nms": "agnostic_nms nms_type soft_nms",
    "postprocess.soft_sigma": "sigma",
    "postprocess.max_detections": "detections_per_img max_det max_per_img",
    "postprocess.max_candidates": "nms_pre pre_nms_topk topk",
    "output_dir": "log_dir out out_dir output run_dir save_dir work_dir",
    "seed": "manual_seed random_seed random_state rng_seed",
}

# Words that are no keys of a recipe, and where to say what they mean.
_ELSEWHERE = {
    "accelerator cuda device devices gpu": "it is an option, such as --device cuda:0",
    "continue resume resume_from resume_from_checkpoint": "it is an option, such as --resume auto or --resume runs/d0",
    "ddp distributed gpus nproc_per_node num_gpus world_size": "start one process per GPU with torchrun instead",
    "base": "it is for recipe files, at their top level",
    "cfg config config_file recipe": "the recipe is named without an option, such as finetune or mine.yaml",
    "preset presets": "start from the recipe {folder}finetune or {folder}scratch instead",
}
_MAIN_KEYS = {"data": ["data.root"], "model": ["model.name"], "name": ["output_dir"]}  # of words of the command line
_FOLDERS = {"detection": "", "classification": "classification/"}


def suggestion(key: str, config: type[Config]) -> str:
    """What to write instead of an unknown key, as the end of the sentence that refuses it; empty where nothing is near.

    Args:
        key: the unknown dotted key.
        config: the tree of the recipe's task.
    """
    section, _, name = key.rpartition(".")
    word = name.lower().replace("-", "_")
    task = next(name for name, tree in TASKS.items() if tree is config)
    others = {name: keys_of(tree) for name, tree in TASKS.items() if name != task}
    known = keys_of(config)
    if _RENAMED.get(key) in known:
        return f"; did you mean '{_RENAMED[key]}'?"
    sentence = other_place(word, _FOLDERS[task])
    if sentence:
        return f"; {sentence}"
    for other, keys in others.items():
        if key in keys:
            return f"; it belongs to task: {other}"
    near = _meant(section, word, known)
    if not near:
        for other, keys in others.items():
            theirs = _meant(section, word, keys)
            if theirs:
                return f"; task: {other} has {' and '.join(map(repr, theirs))}"
    near = near or _similar(section, word, known)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    if section and section not in known:
        return ""
    own = [_last(key) for key in known if key.rpartition(".")[0] == section and key != "version"]
    return f"; {f'the keys of {section!r}' if section else 'sections'} are {', '.join(own)}"


def keys_meant(word: str) -> list[str]:
    """The dotted keys, of any task, that a word such as epochs, lr or data means; the most likely first."""
    keys = dict.fromkeys(key for tree in TASKS.values() for key in keys_of(tree))
    sections = {key.rpartition(".")[0] for key in keys}
    known = [key for key in keys if key not in sections]
    return _MAIN_KEYS.get(word) or _meant("", word, known) or _similar("", word, known)


def other_place(word: str, folder: str = "") -> str | None:
    """Where to say what a word means that is no key of a recipe; None if it may be one.

    Args:
        word: such as gpus.
        folder: what comes before the names of the task's recipes.
    """
    return next((text.format(folder=folder) for words, text in _ELSEWHERE.items() if word in words.split()), None)


def _meant(section: str, word: str, known: Collection[str]) -> list[str]:
    """The keys that a word means: as its new name, in another framework, or in another section.

    If one of them exists in the section in which the word was written, that one alone.
    """
    keys = [new for old, new in _RENAMED.items() if _last(old) == word]
    keys = keys or [key for key, words in _OTHER_WORDS.items() if word in words.split()]
    own = [f"{section}.{_last(key)}" for key in keys]
    keys = [key for key in own if key in known][:1] or [key for key in dict.fromkeys(keys) if key in known]
    return keys or [key for key in known if _last(key) == word]


def _similar(section: str, word: str, known: Collection[str]) -> list[str]:
    """The key of the most similar name, in the same section first."""
    siblings = [key for key in known if key.rpartition(".")[0] == section]
    for keys, cutoff in ((siblings, 0.6), (known, 0.75)):
        similar = difflib.get_close_matches(word, map(_last, keys), n=1, cutoff=cutoff)
        if similar:
            return [key for key in keys if _last(key) == similar[0]]
    return []


def _last(key: str) -> str:
    """The last name of a dotted key."""
    return key.rpartition(".")[2]
