# The image of sweeps and of the MLflow server:
#   docker build --build-arg VARIANT=cuda --build-arg REVISION="$(git rev-parse HEAD)" --tag vodbench:0.1.0-cuda .
# VARIANT cuda (about 10 GB) or cpu. It runs as user 10001 with a read-only root; writable: /tmp, /home/vodbench and
# /dev/shm.
ARG PYTHON=3.11.14-slim-bookworm
ARG VARIANT=cuda

FROM python:${PYTHON} AS tools
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /source
COPY constraints.txt ./
RUN pip install --no-cache-dir "$(grep '^uv==' constraints.txt)"

FROM tools AS wheel
COPY pyproject.toml README.md ./
COPY platform ./platform
COPY methods ./methods
COPY datasets ./datasets
COPY studies ./studies
RUN uv build --wheel --out-dir /wheels .

# Packages before the wheel: a change of our code does not install PyTorch again.
FROM tools AS packages
COPY pyproject.toml ./
RUN uv venv /opt/vodbench

FROM packages AS packages-cuda
RUN uv pip install --no-cache --python /opt/vodbench/bin/python --constraint constraints.txt \
    --requirement pyproject.toml --extra server --extra kubernetes

FROM packages AS packages-cpu
RUN uv pip install --no-cache --python /opt/vodbench/bin/python --constraint constraints.txt --torch-backend cpu \
    --requirement pyproject.toml --extra server --extra kubernetes

# hadolint ignore=DL3006
FROM packages-${VARIANT} AS installed
COPY --from=wheel /wheels /wheels
RUN uv pip install --no-cache --python /opt/vodbench/bin/python --no-deps /wheels/*.whl \
    && /opt/vodbench/bin/python -m compileall -q /opt/vodbench/lib

FROM python:${PYTHON} AS image
ARG VARIANT
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vodbench" \
      org.opencontainers.image.description="Benchmarking and hyperparameter search for video object detection" \
      org.opencontainers.image.revision="${REVISION}" \
      vodbench.variant="${VARIANT}"
# The operator's probes call wget (Debian keeps one version of it, so there is none to pin), and it may start Ray in a
# login shell, whose profile sets PATH anew.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 vodbench \
    && useradd --uid 10001 --gid 10001 --create-home --home-dir /home/vodbench --shell /usr/sbin/nologin vodbench \
    && echo "export PATH=/opt/vodbench/bin:\$PATH" > /etc/profile.d/vodbench.sh
COPY --from=installed /opt/vodbench /opt/vodbench
ENV PATH=/opt/vodbench/bin:$PATH \
    HOME=/home/vodbench \
    MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    VODBENCH_REVISION=${REVISION}
WORKDIR /home/vodbench
VOLUME ["/tmp", "/home/vodbench"]
USER 10001:10001
CMD ["vodbench", "--help"]
