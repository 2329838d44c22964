import pytest

from effdet.cli import VERBS, main


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1].partition("error: ")[2]


@pytest.mark.parametrize(
    ("word", "meant"),
    [("trian", "train"), ("evaluate", "eval"), ("prediction", "predict"), ("showbatch", "show-batch")],
)
def test_a_misspelt_verb_gets_the_nearest_one(capsys, word, meant):
    assert refused(capsys, word, "lite0") == f"unknown verb '{word}'; did you mean {meant}?"


def test_a_verb_that_resembles_nothing_gets_all_verbs(capsys):
    assert refused(capsys, "xyzzy").endswith(f"expected one of {', '.join(VERBS)}")


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--epochs", "3"], "unknown option --epochs; write train.epochs=3 instead"),
        (["--epochs=3"], "unknown option --epochs; write train.epochs=3 instead"),
        (["--lr", "1e-3"], "unknown option --lr; write optim.learning_rate=1e-3 instead"),
        (["--imgsz", "640"], "unknown option --imgsz; write model.image_size=640 instead"),
        (["--img", "640"], "unknown option --img; write model.image_size=640 instead"),
        (["--data", "/data/mine"], "unknown option --data; write data.root=/data/mine instead"),
        (["--model", "efficientdet_d1"], "unknown option --model; write model.name=efficientdet_d1 instead"),
        (["--weights", "coco"], "unknown option --weights; write model.weights=coco instead"),
        (["--workers", "4"], "unknown option --workers; write data.workers=4 instead"),
        (["--num-classes", "4"], "unknown option --num-classes; write model.num_classes=4 instead"),
        (["--output-dir", "x"], "unknown option --output-dir; write output_dir=x instead"),
        (["--name", "x"], "unknown option --name; write output_dir=x instead"),
        (["--seed"], "unknown option --seed; write seed=VALUE instead"),
        (["--amp"], "unknown option --amp; write train.precision=VALUE instead"),
    ],
)
def test_an_option_of_another_framework_gets_the_key_that_it_means(capsys, options, written):
    assert refused(capsys, "train", "lite0", *options) == written


def test_an_option_that_may_mean_two_keys_gets_both(capsys):
    message = refused(capsys, "train", "lite0", "--batch-size", "8")
    assert message == "unknown option --batch-size; write train.batch_size=8 or eval.batch_size=8 instead"


def test_all_unknown_options_are_refused_at_once(capsys):
    message = refused(capsys, "train", "lite0", "--epochs", "3", "--lr", "1")
    assert "train.epochs=3" in message
    assert "optim.learning_rate=1 " in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "a.yaml"], "the recipe is named without an option, such as finetune or mine.yaml"),
        (["train", "lite0", "--gpus", "8"], "start one process per GPU with torchrun instead"),
        (["train", "lite0", "--devcie", "cpu"], "did you mean --device?"),
        (["train", "lite0", "--zzz"], "the options are --help, --resume, --device, and keys of the recipe are written"),
        (["predict", "a.jpg", "--weights", "x", "--confidence", "0.4"], "did you mean --conf?"),
        (["predict", "a.jpg", "--weights", "x", "--zzz"], "the options are --help, --weights, --out"),
    ],
)
def test_an_option_that_means_no_key_gets_what_is_nearest(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_options_may_be_shortened_and_keys_may_follow_them(capsys):
    assert main(["config", "lite0", "--sch", "train.epochs=3"]) == 0
    assert capsys.readouterr().out.startswith("{")


def test_help_is_printed_in_spite_of_unknown_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--epochs", "3", "--help"])
    assert stop.value.code == 0
    assert "RECIPE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch-size", "99999999999999999999"),
        ("--batch-size", "9" * 5000),
        ("--max-det", "-99999999"),
        ("--threads", "2147483648"),
        ("--iou", "nan"),
        ("--iou", "inf"),
        ("--conf", "1e300"),
    ],
)
def test_numbers_beyond_any_use_are_refused(capsys, option, value):
    assert f"argument {option}: {value[:30]} is out of range; expected a" in refused(
        capsys, "predict", "a.jpg", "--weights", "x.pt", f"{option}={value}"
    )


@pytest.mark.parametrize("arguments", [("predict", "a\0b", "--weights", "best.pt"), ("train", "data.root=a\0b")])
def test_arguments_with_nul_are_refused(capsys, arguments):
    assert refused(capsys, *arguments).startswith("an argument holds the character NUL")
