# Two images with one tag: `ops` submits and compiles pipelines, `gpu` trains, evaluates and serves.
# Both run as any non-root user on a read-only root: only HOME and TMPDIR need a writable mount.
# The torch wheel brings its CUDA libraries, so the base needs no CUDA; the driver comes from the host.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app \
    PATH=/opt/venv/bin:$PATH \
    HOME=/home/vilam3 \
    TMPDIR=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /app
RUN useradd --uid 10001 --gid 0 --home-dir /home/vilam3 --create-home vilam3 \
 && chmod -R g=u /home/vilam3

# uv is installed outside the environment it fills, so that no image ships it.
FROM base AS builder
ENV UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
COPY requirements/uv.txt requirements/build.txt requirements/
RUN python -m venv /opt/uv \
 && /opt/uv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && /opt/uv/bin/uv venv /opt/venv

FROM builder AS ops-environment
COPY requirements/ops.txt requirements/
RUN VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip sync --no-cache --require-hashes \
      --build-constraints requirements/build.txt requirements/ops.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY vilam3 vilam3
COPY infra/platform infra/platform
RUN VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip install --no-cache --no-deps \
      --build-constraints requirements/build.txt .

FROM builder AS gpu-environment
COPY requirements/gpu.txt requirements/
RUN VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip sync --no-cache --require-hashes \
      --build-constraints requirements/build.txt requirements/gpu.txt
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY vilam3 vilam3
COPY infra/platform infra/platform
RUN VIRTUAL_ENV=/opt/venv /opt/uv/bin/uv pip install --no-cache --no-deps \
      --build-constraints requirements/build.txt .

# The leaves are not in the wheel: they are found through PYTHONPATH, their verbs through the wheel's entry points.
FROM base AS ops
COPY --from=ops-environment /opt/venv /opt/venv
COPY LICENSE NOTICE ./
COPY components components
COPY pipelines pipelines
USER 10001
ENTRYPOINT ["vilam3"]
CMD ["--help"]

FROM base AS gpu
# deepspeed and triton compile small kernels at the first use.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    XDG_CACHE_HOME=/tmp/cache \
    TRITON_CACHE_DIR=/tmp/triton \
    TORCH_EXTENSIONS_DIR=/tmp/torch-extensions
COPY --from=gpu-environment /opt/venv /opt/venv
COPY LICENSE NOTICE ./
COPY components components
COPY pipelines pipelines
COPY serving serving
USER 10001
ENTRYPOINT ["vilam3"]
CMD ["--help"]
