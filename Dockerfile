# Runs the effdet command on CPUs.
#
#   docker build --tag effdet --build-arg TORCH_INDEX=ADDRESS .
#   docker run --rm --shm-size 8g --user "$(id -u):$(id -g)" \
#       --volume /data/mine:/data:ro --volume "$PWD/runs:/work/runs" effdet train finetune data.root=/data
#
# Data sets are mounted read-only, results are written to /work/runs. Loader processes pass images through shared memory,
# of which a container has 64 MB unless --shm-size gives it more. --volume effdet-cache:/cache keeps downloaded weights.
FROM python:3.12-slim-bookworm

ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

# The system libraries that OpenCV loads
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

# PyTorch with CUDA makes the image several times as large. TORCH_INDEX is the address of its wheels for CPUs, which
# PyTorch's page "Get started" names in the pip command for CPUs; without it the image has CUDA.
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

# The other dependencies are a layer of their own: it is built again only when they change, not with every line of code.
WORKDIR /opt/effdet
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py imagenet heic > requirements.txt \
    && pip install --requirement requirements.txt

COPY . .
RUN pip install --no-deps . \
    && rm -rf /opt/effdet/*

# Any user may write results to /work and weights to /cache, so that --user works.
RUN useradd --create-home effdet \
    && mkdir --mode 1777 /work /work/runs /cache
ENV EFFDET_HOME=/cache \
    MPLCONFIGDIR=/tmp/matplotlib \
    USER=effdet
USER effdet
WORKDIR /work
ENTRYPOINT ["effdet"]
CMD ["--help"]
