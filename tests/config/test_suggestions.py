import pytest

from effdet.config import TASKS, ClassificationConfig, make_config
from effdet.config.section import keys_of
from effdet.config.suggestions import _OTHER_WORDS, suggestion
from effdet.errors import ConfigError


def refusal(task, override):
    with pytest.raises(ConfigError) as error:
        make_config({"task": task}, [override])
    return str(error.value)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        *[(key, "optim.learning_rate") for key in ("lr", "optim.lr", "train.lr", "LR", "lr0", "learning_rate")],
        *[(key, "optim.weight_decay") for key in ("wd", "optim.wd")],
        *[(key, "train.precision") for key in ("amp", "train.amp", "mixed_precision", "fp16")],
        *[(key, "model.image_size") for key in ("imgsz", "img_size", "train.imgsz", "model.img_size", "image_size")],
        *[(key, "train.epochs") for key in ("epochs", "optim.epochs", "num_epochs")],
        *[(key, "optim.name") for key in ("optimizer", "train.optimizer")],
        *[(key, "data.workers") for key in ("workers", "num_workers", "data.num_workers")],
        *[(key, "train.ema_decay") for key in ("ema", "train.ema")],
        *[(key, "postprocess.iou_threshold") for key in ("nms_iou", "iou_thres")],
        *[(key, "postprocess.score_threshold") for key in ("conf", "postprocess.conf", "confidence")],
        *[(key, "model.weights") for key in ("pretrained", "model.pretrained", "weights")],
        *[(key, "model.num_classes") for key in ("nc", "model.classes", "num_classes")],
        *[(key, "train.batch_size") for key in ("train.batch", "train.bs")],
        ("eval.batch", "eval.batch_size"),
        ("momentum", "optim.momentum"),
        ("wandb", "log.trackers"),
        ("early_stopping", "train.patience"),
        *[(key, "model.letterbox") for key in ("augment.letterbox", "letterbox", "data.keep_ratio")],
    ],
)
def test_a_word_of_another_framework_gets_the_key_that_it_means(key, meant):
    assert refusal("detection", f"{key}=1") == f"command line: unknown key '{key}'; did you mean '{meant}'?"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("batch", "'train.batch_size' or 'eval.batch_size'"), ("classes", "'model.num_classes' or 'data.classes'")],
)
def test_a_word_that_may_mean_two_keys_gets_both(key, meant):
    assert refusal("detection", f"{key}=1").endswith(f"unknown key '{key}'; did you mean {meant}?")


@pytest.mark.parametrize(
    ("task", "key", "meant"),
    [
        ("detection", "optim.rates", "optim.lr_multipliers"),
        ("detection", "optim.reference_batch", "optim.base_batch_size"),
        ("detection", "optim.clip_norm", "optim.grad_clip_norm"),
        ("detection", "train.norms", "train.batch_norm"),
        ("detection", "train.accumulate", "train.accumulation_steps"),
        ("detection", "model.keep_rows", "model.keep_known_classes"),
        ("detection", "postprocess.suppression", "postprocess.nms"),
        ("detection", "augment.rand_layers", "augment.rand_augment.layers"),
        ("detection", "data.background_share", "data.background_fraction"),
        ("classification", "augment.mixup", "augment.mixup_alpha"),
        ("classification", "progressive.rand_magnitude", "progressive.rand_augment_magnitude"),
    ],
)
def test_a_key_of_an_older_version_gets_its_new_name_in_its_section_and_at_the_top(task, key, meant):
    assert refusal(task, f"{key}=1").endswith(f"unknown key '{key}'; did you mean '{meant}'?")
    assert f"'{meant}'" in refusal(task, f"{key.rpartition('.')[2]}=1") or key == "augment.mixup"


def test_a_file_with_an_old_key_is_not_migrated_but_gets_the_suggestion():
    with pytest.raises(ConfigError, match=r"unknown key 'train\.accumulate'; did you mean 'train\.accumulation_steps'"):
        make_config({"train": {"accumulate": 2}})


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("device", "it is an option, such as --device cuda:0"),
        ("train.device", "it is an option, such as --device cuda:0"),
        ("resume", "it is an option, such as --resume auto or --resume runs/d0"),
        ("gpus", "start one process per GPU with torchrun instead"),
        ("preset", "start from the recipe finetune or scratch instead"),
    ],
)
def test_a_word_that_is_no_key_gets_the_place_where_it_belongs(key, sentence):
    assert refusal("detection", f"{key}=1") == f"command line: unknown key '{key}'; {sentence}"


def test_a_preset_of_a_classifier_gets_the_recipes_of_classifiers():
    assert "classification/finetune or classification/scratch" in refusal("classification", "preset=finetune")


@pytest.mark.parametrize(
    ("task", "override", "other"),
    [
        ("classification", "model.anchor_scale=3", "detection"),
        ("classification", "model.backbone=efficientnet_b1", "detection"),
        ("classification", "augment.scale_jitter=null", "detection"),
        ("classification", "loss.gamma=2", "detection"),
        ("classification", "postprocess.iou_threshold=0.6", "detection"),
        ("detection", "model.dropout=0.1", "classification"),
        ("detection", "augment.cutmix_alpha=0.2", "classification"),
        ("detection", "progressive.image_size=[64, 96]", "classification"),
    ],
)
def test_a_key_of_the_other_task_gets_its_task(task, override, other):
    key = override.partition("=")[0]
    unknown = key if key.partition(".")[0] not in ("postprocess", "progressive") else key.partition(".")[0]
    assert refusal(task, override).endswith(f"unknown key '{unknown}'; it belongs to task: {other}")


def test_a_word_that_means_a_key_of_the_other_task_gets_both():
    assert refusal("detection", "augment.cutmix=1").endswith("; task: classification has 'augment.cutmix_alpha'")
    assert refusal("classification", "nms_iou=1").endswith("; task: detection has 'postprocess.iou_threshold'")


@pytest.mark.parametrize(
    ("task", "key", "meant"),
    [
        ("classification", "model.drop_out", "model.dropout"),
        ("classification", "layers", "augment.rand_augment.layers"),
        ("detection", "model.anchor_scales", "model.anchor_scale"),
        ("detection", "model.num_clases", "model.num_classes"),
        ("detection", "optim.learing_rate", "optim.learning_rate"),
        ("detection", "learnig_rate", "optim.learning_rate"),
        ("detection", "train.epoch", "train.epochs"),
        ("detection", "train.save-every-minutes", "train.save_every_minutes"),
        ("detection", "data.val.splt", "data.val.split"),
        ("detection", "modle", "model"),
        ("detection", "sead", "seed"),
        ("detection", "seeds", "seed"),
    ],
)
def test_a_misspelt_or_misplaced_key_gets_the_nearest_one(task, key, meant):
    assert refusal(task, f"{key}=1").endswith(f"unknown key '{key}'; did you mean '{meant}'?")


def test_a_key_that_resembles_nothing_gets_the_keys_of_its_section():
    keys = refusal("classification", "zzz=1").partition("; sections are ")[2].split(", ")
    assert keys == [key for key in ClassificationConfig.model_fields if key != "version"]
    keys = refusal("classification", "log.zzz=1").partition("; the keys of 'log' are ")[2].split(", ")
    assert keys == ["trackers", "project"]


def test_every_word_of_another_framework_means_a_key_that_exists_and_is_none_itself():
    known = {key for config in TASKS.values() for key in keys_of(config)}
    for key, words in _OTHER_WORDS.items():
        assert key in known
        for config in TASKS.values():
            for word in words.split():
                if word not in keys_of(config):
                    assert suggestion(word, config).startswith(("; did you mean", "; task:")), word
