# One image for the worker, the API and the chat page. For a GPU build with
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
FROM python:3.12-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /heliograph
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY broker broker
COPY workers workers
COPY frontend frontend
RUN pip install --no-cache-dir --extra-index-url "$TORCH_INDEX" --constraint constraints.txt . \
    && useradd --create-home heliograph
USER heliograph
CMD ["python", "-m", "workers"]
