"""The page of tools/demo.py --web: a picture in, what the model predicts for it drawn, listed and to download.

It is served to this machine alone and asks nothing of any other: the browser is forbidden to fetch from elsewhere,
fonts are the system's, and Gradio's analytics are off. A picture is predicted once; its result is the state of the
visitor's tab, from which threshold and task draw anew.
"""
import hashlib
import importlib.util
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from freqdino.engine.predictor import Predictor
from freqdino.engine.result import Result
from freqdino.engine.showing.shown import Shown, packed, what_is_shown
from freqdino.errors import USER_ERRORS, message_of
from freqdino.visualization.drawing import choose_task, predicted_tasks

ADDRESS = "127.0.0.1"
TITLE = "FreqDINO"
FONTS, FIXED_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
ALTERNATIVE = "the picture with what is predicted drawn into it"       # read out in place of the drawing
COLUMNS: dict[str, Any] = {"id": "number", "class": "str", "score": "str", "box": "str", "area": "number"}
PROBE = (64, 64, 3)         # of the picture that shows what a model predicts
TABS_KEPT = 8               # of so many tabs results stay in memory: those of a large picture are gigabytes
KEPT, CLEANING = 3600, 600  # seconds that results and files stay, and between two removals of old files
STARTING, POLL = 30, 0.01   # seconds that the server may take, and between two looks whether it is there
LEAST_EDGE = 640            # pixels of a drawing's longer edge: names would cover a smaller one
NO_RESULT = "No picture yet, or one of long ago: choose one."
# Gradio's scripts and styles stand in the page, in part; a picture that was just chosen is a blob.
POLICY = "default-src 'self' 'unsafe-inline' data: blob:"


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """A result as a tab keeps it, with `Result.to_dict` as JSON and the seconds that it took."""

    result: Result
    document: str
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What the page shows of a prediction: the picture, a line about it, rows of `COLUMNS`, and a ZIP archive."""

    picture: Image.Image
    line: str
    rows: list[list[Any]]
    archive: bytes


def need_gradio() -> None:
    """Raise ImportError with the remedy where gradio is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("the web page needs the package gradio: pip install freqdino[web]")


def listen(port: int) -> socket.socket:
    """A socket of this machine alone on ``port``, 0 for a free one. Raises OSError: it is taken or not allowed."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(f"port {port} of {ADDRESS} cannot be used ({error.strerror}); name another by --port, or 0 for "
                      "a free one") from error
    return listener


def tasks_of(predictor: Predictor, task: str | None) -> list[str]:
    """What the model predicts, ``task`` or else the richest first; a model that cannot run fails here, before there
    is a page.

    Raises ValueError: it does not predict ``task``, or nothing that could be shown.
    """
    output = predictor(np.zeros(PROBE, np.uint8)).output
    first = choose_task(output, task)
    return [first, *(other for other in predicted_tasks(output) if other != first)]


def predict(predictor: Predictor, path: str) -> Prediction:
    """What is predicted for the picture of a file, on the CPU.

    Raises ValueError: it cannot be; the message names the file without its folder, which no visitor knows.
    """
    start = time.perf_counter()
    try:
        result = predictor(path)
    except USER_ERRORS as error:
        raise ValueError(message_of(error).replace(path, Path(path).name)) from error
    found = {"instances": result.instances, "panoptic_seg": result.panoptic, "sem_seg": result.semantic}
    seconds = time.perf_counter() - start
    kept = Result(image=result.image, output={key: value for key, value in found.items() if value is not None},
                  metadata=result.metadata)
    return Prediction(result=kept, document=json.dumps(kept.to_dict()), seconds=seconds)


def view(prediction: Prediction, *, task: str, threshold: float, scale: float) -> View:
    """What the page shows for a task; instances and segments below ``threshold`` are left out of all of it."""
    result = prediction.result
    shown = what_is_shown(result, task=task, threshold=threshold)
    height, width = result.image.shape[:2]
    count = f"{len(shown)} shown" if task == "semantic" else f"{len(shown) or 'none'} at {threshold:g} or above"
    scale = max(scale, LEAST_EDGE / max(height, width))
    return View(picture=result.draw(threshold=threshold, task=task, scale=scale),
                line=f"{width} x {height} pixels, predicted in {prediction.seconds:.2f} s: {count}",
                rows=[table_row(one) for one in shown],
                archive=packed(result, shown, task=task, threshold=threshold, document=prediction.document))


def table_row(one: Shown) -> list[Any]:
    return [one.id, one.name, "" if one.score is None else f"{one.score:.2f}",
            ", ".join(f"{value:.0f}" for value in one.box), one.area]


def build_page(predictor: Predictor, examples: Sequence[Path], folder: Path, *, task: str | None = None,
               threshold: float = 0.5, scale: float = 1.0) -> Any:
    """Gradio's Blocks for a model.

    Args:
        examples: pictures to try.
        folder: of temporary files, in the system's own: the archives to download, one a tab.
        task, threshold: what is chosen at first.
        scale: how much larger than the picture the drawing is, at least; that of a small picture is LEAST_EDGE long.
    Raises ImportError: gradio is not installed; ValueError: as `tasks_of`.
    """
    need_gradio()
    import gradio as gr

    def forget() -> None:
        """What is shown is never of another picture than the one that is chosen."""

    def run(file: dict | None) -> Prediction | None:
        try:
            return None if file is None else predict(predictor, file["path"])
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def show(prediction: Prediction | None, task: str, threshold: float, request: gr.Request) -> tuple:
        slider = gr.Slider(interactive=task != "semantic")
        if prediction is None:
            return None, NO_RESULT, [], gr.DownloadButton(value=None, interactive=False), slider
        seen = view(prediction, task=task, threshold=threshold, scale=scale)
        # The tab's own name comes from the browser: no path may be made of it.
        archive = folder / hashlib.sha256(str(request.session_hash).encode()).hexdigest() / "masks.zip"
        archive.parent.mkdir(exist_ok=True)
        archive.write_bytes(seen.archive)
        return seen.picture, seen.line, seen.rows, gr.DownloadButton(value=archive, interactive=True), slider

    tasks = tasks_of(predictor, task)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CLEANING, KEPT), fill_width=True) as page:
        page.state_session_capacity = TABS_KEPT
        kept = gr.State(time_to_live=KEPT)
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.Image(label="Picture", sources=["upload", "clipboard"], type="filepath", height=300)
                if examples:
                    gr.Examples([[str(path)] for path in examples], picture, cache_examples=False)
                chosen = gr.Radio(tasks, value=tasks[0], label="Task")
                slider = gr.Slider(0, 1, threshold, step=0.01, label="Threshold of the score",
                                   info="a semantic map has none", interactive=tasks[0] != "semantic")
            with gr.Column(scale=2):
                drawing = gr.Image(label="Prediction", interactive=False, format="png", height=480,
                                   buttons=["download", "fullscreen"], alt_text=ALTERNATIVE)
                line = gr.Markdown(NO_RESULT)
                table = gr.Dataframe(headers=list(COLUMNS), datatype=list(COLUMNS.values()), type="array",
                                     interactive=False, label="box: x0, y0, x1, y1; area: pixels")
                download = gr.DownloadButton("Masks and results (ZIP)", variant="primary", interactive=False)
        # Not preprocessed: the predictor opens the file, as any other, and says what is wrong with it. A picture that
        # is chosen while another is predicted waits for it, and where it then fails the other's result is not left.
        picture.change(forget, None, kept, api_visibility="private").then(
            run, picture, kept, preprocess=False, concurrency_limit=1, trigger_mode="always_last",
            api_visibility="private").failure(forget, None, kept, api_visibility="private")
        # One at a time: matplotlib is not made for several threads.
        gr.on([kept.change, chosen.input, slider.input], show, [kept, chosen, slider],
              [drawing, line, table, download, slider], concurrency_limit=1, trigger_mode="always_last",
              show_progress="hidden", api_visibility="private")
    return page


@contextmanager
def serving(page: Any, listener: socket.socket) -> Iterator[str]:
    """A page at the address that the context gives, served by a thread until the context ends.

    Raises OSError: the server does not start.
    """
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(application(page), log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    end = time.monotonic() + STARTING
    try:
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise OSError(f"the server of the page does not start at port {port}")
            time.sleep(POLL)
        yield f"http://{ADDRESS}:{port}"
    finally:
        server.should_exit = server.force_exit = True       # tabs hold connections open for ever
        thread.join()


def application(page: Any) -> Any:
    """The page as an application of ASGI whose answers forbid the browser to fetch anything from elsewhere."""
    import gradio as gr
    from fastapi import FastAPI

    theme = gr.themes.Default(font=FONTS, font_mono=FIXED_FONTS)
    site = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None), page, "/", server_name=ADDRESS, footer_links=[],
        run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False, mcp_server=False, theme=theme)

    async def guarded(scope, receive, send):
        async def with_policy(message):
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()),
                                                  (b"content-security-policy", POLICY.encode())]}
            await send(message)

        await site(scope, receive, with_policy)

    return guarded
