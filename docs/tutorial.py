# %% [markdown]
# # From your own photographs to a detector
#
# This notebook needs about ten minutes on a laptop without a GPU. It checks a data set, trains a detector on it, evaluates
# it, and runs it on images. Replace `data` by the folder of your own images and annotations; everything else stays as it is.
#
# ```
# pip install 'efficientdet-torch[imagenet]'
# ```

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import effdet

# %% [markdown]
# ## 1. The data set
#
# Here we draw a small data set: scenes with six kinds of shapes, in the layout of COCO. Yours may be the export of any
# annotation tool, in COCO, YOLO, Pascal VOC or CSV format. See [data.md](data.md).

# %%
data = Path("tutorial/data")
# !effdet synthetic {data} --train 240 --val 40

# %% [markdown]
# `effdet check` lists what is wrong with a data set before you spend time on training.

# %%
# !effdet check {data}

# %% [markdown]
# `effdet show-batch` draws training images as the model gets them, with their boxes.

# %%
# !effdet show-batch finetune data.root={data} model.weights=null train.batch_size=8 --out tutorial/batch.png
plt.figure(figsize=(10, 5))
plt.imshow(plt.imread("tutorial/batch.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# ## 2. Train
#
# One call. The recipe that fits the number of images, the weights that can be reached and your hardware is chosen and
# printed. `overrides=["train.epochs=50"]` would change a key of it.

# %%
result = effdet.train(data=data, output_dir="tutorial/run")
print("AP50", round(result.metrics["AP50"], 3))

# %% [markdown]
# The run's folder holds `best.pt`, the weights to use, the metrics, the log, and the training curves.

# %%
plt.figure(figsize=(10, 6))
plt.imshow(plt.imread(result.folder / "curves.png"))
plt.axis("off")
plt.show()

# %% [markdown]
# An interrupted run continues with `effdet.train(resume="tutorial/run")`, or `effdet train --resume tutorial/run`.
#
# ## 3. Evaluate
#
# This evaluates `best.pt` on the validation images. AP50 counts a detection as correct if its IoU with the object is at
# least 0.5.

# %%
metrics = effdet.evaluate(result.folder / "best.pt", output_dir="tutorial/metrics")
print({name: round(value, 3) for name, value in metrics.items()})

# %% [markdown]
# ## 4. Predict

# %%
predictor = effdet.Predictor(result.folder / "best.pt", score_threshold=0.4)
images = sorted((data / "val2017").glob("*.jpg"))[:4]
figure, axes = plt.subplots(1, 4, figsize=(14, 4))
for axis, detections in zip(axes, predictor(images), strict=True):
    axis.imshow(detections.draw())
    axis.axis("off")
plt.show()

# %%
detections = predictor(images[0])
for box, score, _, name in detections:
    print(f"{name:8} {score:.2f}", [round(side) for side in box])

# %% [markdown]
# The same from the command line writes annotated images, `predictions.json` and `predictions.csv`:

# %%
# !effdet predict {data}/val2017 --weights tutorial/run/best.pt --out tutorial/predictions --conf 0.4

# %% [markdown]
# ## What to do next
#
# - More images help most. Then more epochs: `train.epochs=50`.
# - Small objects need a larger input: `model.image_size=[768,768]`.
# - A larger model is more accurate and slower: `model.name=efficientdet_d1`.
# - [training.md](training.md) explains augmentation, class imbalance and debugging.
