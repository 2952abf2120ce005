"""Trains and evaluates every model of FreqDINO, and Detectron2's own, with Detectron2's command line.

    train_net.py --config-file FILE [--num-gpus N] [--resume] [KEY VALUE ...]          trains, evaluates at the end
    train_net.py --config-file FILE --eval-only MODEL.WEIGHTS CHECKPOINT               evaluates
    torchrun --nproc-per-node N train_net.py --config-file FILE [...]                  the same in torchrun's processes

OUTPUT_DIR then has config.yaml, log.txt, metrics.json, TensorBoard events, the last evaluation in
inference/results.json, and weights: model_<iteration>.pth, whole checkpoints that --resume goes on from
(SOLVER.CHECKPOINT_KEEP says how many), model_final.pth, what was evaluated at the end, and with TEST.KEEP_BEST
model_best.pth, what was evaluated best. With MODEL_EMA.ENABLED True an average of the weights over training is
evaluated; with TEST.AUG.ENABLED True the last evaluation is done again with several sizes and mirror images, in
inference_TTA. OUTPUT_WRITERS says where the metrics go; mlflow among them makes a run in MLflow's own store, whose id
is in mlflow_run_id. Without CUDA it runs on the CPU; ``--num-gpus`` counts processes
there. Errors in what the user gives end in a message on stderr and exit status 1; their traceback is in log.txt.
Ctrl-C and SIGTERM end the training after the step at hand and a checkpoint, with status 130 and 143; ``--resume`` then
goes on as if there had been no pause. A training starts in an OUTPUT_DIR without another one.
"""
import argparse
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from freqdino.commands.command_line import (
    SIGNALLED,
    SIGNALS,
    StopSignals,
    close_full_logs,
    exit_status,
    make_parser,
    start_logging,
    tell,
)
from freqdino.errors import USER_ERRORS, Stopped, need_detectron2

# The first of the ports that are nobody's, and how many they are: each user has one of them.
PORTS, PORT_COUNT = 49152, 16384


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--config-file", default="", metavar="FILE",
                        help="a YAML file, or the name of one in configs/, as in coco/instance/mask2former_r50.yaml")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint of OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS, with --resume the last "
                                                                 "checkpoint of OUTPUT_DIR, and train nothing")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on each machine (default 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="machines in all (default 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0 (default 0)")
    # The same port every time: a process that an earlier run left behind shows as an address in use.
    port = PORTS + (os.getuid() if hasattr(os, "getuid") else 0) % PORT_COUNT
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", metavar="URL",
                        help="where the processes meet; of several machines an address of the first (default "
                             "%(default)s)")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="configuration options")
    return parser.parse_args(arguments)


def run(arguments: Sequence[str] | None = None) -> None:
    """The command line, by default sys.argv's words. Exits with status 1 on an error in what the user gave.

    Where RANK and WORLD_SIZE are set, as by torchrun, this process joins the others of them.
    """
    args = parse_arguments(arguments)
    status = exit_status(lambda: launch_processes(args))
    if status:
        sys.exit(status)


def launch_processes(args: argparse.Namespace) -> int:
    """Run the job in as many processes as are asked for; 1 where one of them ended itself and said why.

    Raises Stopped where a signal ends it.
    """
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"   # of torchrun's processes one a machine
    if speaks:
        start_logging("freqdino")   # Detectron2's own are set up with OUTPUT_DIR
    need_detectron2()
    keep_threads_quiet()
    from detectron2.engine import launch
    from torch.multiprocessing import ProcessExitedException

    from freqdino.engine.joining import joined, started_process
    from freqdino.engine.launch import check_output_folder, load_checked_config

    try:
        started = started_process(os.environ, args)
        cfg, predictions = load_checked_config(args)
        if (started.rank if started else args.machine_rank) == 0:
            check_output_folder(cfg, resume=args.resume, eval_only=args.eval_only)
    except USER_ERRORS:
        if speaks:
            raise
        return 1
    alone = args.num_gpus * args.num_machines == 1
    with what_is_kept_said(cfg):
        if started and not alone:
            with StopSignals() as stop, joined(started):
                run_process(cfg, predictions, args, stop)
            return 0
        with StopSignals(for_children=not alone) as stop:
            try:
                launch(run_process if alone else run_child, args.num_gpus, args.num_machines, args.machine_rank,
                       args.dist_url, args=(cfg, predictions, args, *([stop] if alone else [])))
            except ProcessExitedException as error:
                if error.exit_code == 1:
                    return 1
                if stop.received is None and error.exit_code not in [SIGNALLED + number for number in SIGNALS]:
                    raise
                raise Stopped(stop.received or error.exit_code - SIGNALLED) from None
            if not alone and stop.received is not None:
                raise Stopped(stop.received)
    return 0


def keep_threads_quiet() -> None:
    """TensorBoard writes in a thread; what stops it there, such as a full disk, is raised again in the main one."""
    loud = threading.excepthook
    threading.excepthook = lambda raised: None if issubclass(raised.exc_type, OSError) else loud(raised)


@contextmanager
def what_is_kept_said(cfg) -> Iterator[None]:
    """A context out of which a Stopped says which checkpoint --resume continues from."""
    try:
        yield
    except Stopped as stopped:
        last = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
        kept = f"--resume continues from {last.parent / last.read_text().strip()}" if last.is_file() else ""
        raise Stopped(stopped.number, kept) from None


def run_process(cfg, predictions, args: argparse.Namespace, stop: StopSignals) -> None:
    """The work of one process; errors of the user's end it here, since no other process sees them."""
    from detectron2.utils import comm

    from freqdino.engine.launch import run_job

    try:
        run_job(cfg, predictions, args, stop)
    except USER_ERRORS as error:
        logging.getLogger(__name__).exception("Stopped by an error")
        close_full_logs("detectron2", "fvcore", "freqdino")
        tell(error, where=f" in process {comm.get_rank()}" if comm.get_world_size() > 1 else "")
        sys.exit(1)


def run_child(cfg, predictions, args: argparse.Namespace) -> None:
    """`run_process` in one of several processes, with its own eye on signals."""
    from freqdino.engine.joining import leaving

    keep_threads_quiet()
    with StopSignals() as stop, leaving():
        try:
            run_process(cfg, predictions, args, stop)
        except Stopped as stopped:
            sys.exit(SIGNALLED + stopped.number)


if __name__ == "__main__":
    run()
