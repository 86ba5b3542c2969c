# Four images with one tag: `ops` submits pipelines, orchestrates and tracks; `gpu` trains, evaluates and serves; `cpu`
# is `gpu` for machines without an accelerator; `vllm` serves the language model on vLLM. All run as any non-root user on a read-only root, with
# /tmp and /var/lib/vilam3 writable. The torch wheel brings its CUDA libraries, so the base needs no CUDA.
#
# An environment (everything locked, nothing of ours) is one layer that changes with its lock alone. A build may start
# from one made before: --build-arg CPU_ENVIRONMENT=IMAGE.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG OPS_ENVIRONMENT=ops-environment
ARG CPU_ENVIRONMENT=cpu-environment
ARG GPU_ENVIRONMENT=gpu-environment
ARG VLLM_ENVIRONMENT=vllm-environment

FROM ${BASE_IMAGE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app \
    PATH=/app/bin:/opt/venv/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/var/lib/vilam3 \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /app
RUN groupadd --gid 10001 vilam3 \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/vilam3 --create-home vilam3 \
 && chmod 0770 /var/lib/vilam3

# Ours alone: the library with its metadata, and the leaves beside it, which are found through PYTHONPATH. The verbs of
# the leaves come from the library's entry points.
FROM base AS application
COPY requirements/uv.txt requirements/build.txt requirements/
RUN python3 -m venv /opt/uv \
 && /opt/uv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements/uv.txt \
 && /opt/uv/bin/uv venv /opt/venv
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY vilam3 vilam3
COPY infra/platform/platform.toml infra/platform/
RUN --mount=type=cache,target=/var/cache/uv \
    /opt/uv/bin/uv pip install --cache-dir /var/cache/uv --link-mode copy --system-certs --python /opt/venv/bin/python \
      --no-deps --build-constraints requirements/build.txt --target /opt/application .
COPY LICENSE NOTICE /opt/application/
COPY components /opt/application/components
COPY pipelines /opt/application/pipelines
# with the page that `make page` has built; without it the endpoint says so at /
COPY serving /opt/application/serving
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/application

FROM base AS ops-environment
COPY requirements/ops.txt requirements/build.txt requirements/uv.txt infra/images/fill /opt/requirements/
RUN --mount=type=cache,target=/var/cache/uv sh /opt/requirements/fill ops

FROM ${OPS_ENVIRONMENT} AS ops
COPY --from=application /opt/application /app
USER 10001:10001
ENTRYPOINT ["vilam3"]
CMD ["--help"]

# deepspeed and triton compile small kernels at the first use.
FROM base AS compiler
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
ENV TRITON_CACHE_DIR=/tmp/cache/triton \
    TORCH_EXTENSIONS_DIR=/tmp/cache/torch-extensions

# torch's stock build, as everywhere, less the libraries that only an accelerator uses.
FROM compiler AS cpu-environment
COPY requirements/cpu.txt requirements/build.txt requirements/uv.txt infra/images/fill infra/images/absent_cuda.py /opt/requirements/
RUN --mount=type=cache,target=/var/cache/uv sh /opt/requirements/fill cpu \
 && python3 /opt/requirements/absent_cuda.py /opt/venv

FROM ${CPU_ENVIRONMENT} AS cpu
COPY --from=application /opt/application /app
USER 10001:10001
ENTRYPOINT ["vilam3"]
CMD ["--help"]

FROM compiler AS gpu-environment
COPY requirements/gpu.txt requirements/build.txt requirements/uv.txt infra/images/fill /opt/requirements/
RUN --mount=type=cache,target=/var/cache/uv sh /opt/requirements/fill gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM ${GPU_ENVIRONMENT} AS gpu
COPY --from=application /opt/application /app
USER 10001:10001
ENTRYPOINT ["vilam3"]
CMD ["--help"]

# vLLM brings its own torch and transformers.
FROM compiler AS vllm-environment
COPY requirements/vllm.txt requirements/build.txt requirements/uv.txt infra/images/fill /opt/requirements/
RUN --mount=type=cache,target=/var/cache/uv sh /opt/requirements/fill vllm
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VLLM_CACHE_ROOT=/tmp/cache/vllm \
    VLLM_NO_USAGE_STATS=1

FROM application AS plugin
COPY serving/vllm serving/vllm
RUN --mount=type=cache,target=/var/cache/uv \
    /opt/uv/bin/uv pip install --cache-dir /var/cache/uv --link-mode copy --system-certs --python /opt/venv/bin/python \
      --no-deps --build-constraints requirements/build.txt --target /opt/plugin ./serving/vllm

FROM ${VLLM_ENVIRONMENT} AS vllm
COPY --from=application /opt/application /app
COPY --from=plugin /opt/plugin /opt/plugin
ENV PYTHONPATH=/app:/opt/plugin
USER 10001:10001
ENTRYPOINT ["vilam3"]
CMD ["--help"]
