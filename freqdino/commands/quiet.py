"""Messages of torch's about a GPU that is not there: nobody asked for one, and our own log says where a model runs."""
import logging
import os


def quiet_without_gpu() -> None:
    """Keep off stderr what torch's profiler and its extension builder say where there is no CUDA driver.

    To be called before either is used. A KINETO_LOG_LEVEL that the user has set stays.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")     # beyond errors: it counts GPUs even for profiles of the CPU
    logging.getLogger("torch.utils.cpp_extension").addFilter(is_not_about_cuda)


def is_not_about_cuda(record: logging.LogRecord) -> bool:
    """Detectron2 imports the builder to log versions; it then warns of an nvcc without a GPU."""
    return "No CUDA runtime is found" not in record.getMessage()
