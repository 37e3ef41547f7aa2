# One image for the worker, the API and the chat page. pip's default torch runs on CPU and GPU; to
# build a smaller image for CPU only, name an index that has that build:
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... .
FROM python:3.12-slim

# g++ compiles the decode step on machines without a GPU.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /heliograph
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY broker broker
COPY workers workers
COPY frontend frontend
RUN pip install --no-cache-dir --constraint constraints.txt . \
    && useradd --create-home heliograph
USER heliograph
WORKDIR /home/heliograph
CMD ["python", "-m", "workers"]
