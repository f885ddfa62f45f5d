# Images for GPUs. There are two because cuML and vLLM cannot share an environment (see constraints-vllm.txt):
#
#   docker build --file docker/gpu.Dockerfile --target train --tag REGISTRY/s2l-ray:0.1.0-gpu .
#   docker build --file docker/gpu.Dockerfile --target generate --tag REGISTRY/s2l-ray:0.1.0-vllm .
#
# `train` runs every stage of `s2l run`; `generate` is for text generation with a trained model. CUDA 13.0 is part of
# the Python packages, so the base image has none; the host needs driver 580 or newer and NVIDIA's container toolkit.

FROM python:3.12.12-slim-bookworm AS build
ENV PATH=/srv/s2l/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /srv/s2l
COPY pyproject.toml README.md constraints-gpu.txt constraints-vllm.txt /build/

# Large packages that rarely change are installed in their own layer, before the code.
FROM build AS build-train
RUN pip install --constraint /build/constraints-gpu.txt torch==2.13.0 cuml-cu13==26.10.0 'ray[data,train,default]==2.60.0'
COPY s2l_ray /build/s2l_ray
RUN pip install --constraint /build/constraints-gpu.txt '/build[hub,aws,embed,gpu]'

FROM build AS build-generate
RUN pip install --constraint /build/constraints-vllm.txt torch==2.13.0 vllm==0.32.0 'ray[data,train,default]==2.60.0'
COPY s2l_ray /build/s2l_ray
RUN pip install --constraint /build/constraints-vllm.txt '/build[hub,aws,vllm]'

FROM python:3.12.12-slim-bookworm AS runtime
# Ray's cluster launcher uses rsync into the container, and ssh from the head to other nodes. The launcher and KubeRay
# run commands in login shells, which take PATH from /etc/profile. Triton needs a C compiler for its kernels.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev openssh-client rsync \
    && rm -rf /var/lib/apt/lists/* && echo 'PATH=/srv/s2l/bin:$PATH' > /etc/profile.d/s2l.sh \
    && useradd --create-home --uid 1000 --shell /bin/bash ray && install --directory --owner ray /home/ray/.ray
COPY jobs /home/ray/jobs
ENV PATH=/srv/s2l/bin:$PATH HOME=/home/ray RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER ray
WORKDIR /home/ray
CMD ["s2l", "--help"]

FROM runtime AS generate
ENV VLLM_NO_USAGE_STATS=1
COPY --from=build-generate /srv/s2l /srv/s2l

FROM runtime AS train
COPY --from=build-train /srv/s2l /srv/s2l
