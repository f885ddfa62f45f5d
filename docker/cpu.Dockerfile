# Image for CPUs: for a trial, or for a cluster without GPUs.
#
#   docker build --file docker/cpu.Dockerfile --build-arg TORCH_INDEX=URL --tag REGISTRY/s2l-ray:0.1.0-cpu .
#
# TORCH_INDEX is the index of CPU builds from PyTorch's installation page; the default build of torch adds 4 GB of CUDA.

FROM python:3.12.12-slim-bookworm AS build
ARG TORCH_INDEX
ENV PATH=/srv/s2l/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /srv/s2l && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
COPY pyproject.toml README.md constraints-cpu.txt /build/
COPY s2l_ray /build/s2l_ray
RUN pip install --constraint /build/constraints-cpu.txt '/build[hub,aws,embed]'

FROM python:3.12.12-slim-bookworm
# Ray's cluster launcher uses rsync into the container, and ssh from the head to other nodes. The launcher and KubeRay
# run commands in login shells, which take PATH from /etc/profile.
RUN apt-get update && apt-get install --yes --no-install-recommends openssh-client rsync \
    && rm -rf /var/lib/apt/lists/* && echo 'PATH=/srv/s2l/bin:$PATH' > /etc/profile.d/s2l.sh \
    && useradd --create-home --uid 1000 --shell /bin/bash ray && install --directory --owner ray /home/ray/.ray
COPY --from=build /srv/s2l /srv/s2l
COPY jobs /home/ray/jobs
ENV PATH=/srv/s2l/bin:$PATH HOME=/home/ray RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
USER ray
WORKDIR /home/ray
CMD ["s2l", "--help"]
