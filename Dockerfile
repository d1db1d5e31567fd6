# tosslm for a CPU, with the locked versions and the built-in demo model.
#   docker build -t tosslm .
#   docker run --rm -v "$PWD:/work" tosslm plan toss.yaml
FROM python:3.11-slim

# Which PyTorch, and from which index where it is not pip's own. PyTorch's index of CPU wheels makes the smallest image.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=

WORKDIR /src
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps -r requirements.lock \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH"
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# Any user may be named with --user: home and cache belong to nobody in particular.
RUN useradd --create-home toss && mkdir /cache /work && chmod 1777 /cache /work
ENV HOME=/cache HF_HOME=/cache/huggingface TOSSLM_CACHE=/cache/tosslm
USER toss
WORKDIR /work
ENTRYPOINT ["toss"]
CMD ["--help"]
