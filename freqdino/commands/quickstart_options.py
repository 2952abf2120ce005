"""Print the options that put frequency modules into a quickstart model, for the end of train_net.py's command line.

    python -m freqdino.commands.quickstart_options mask2former freqfusion fdam
"""
import sys
from collections.abc import Sequence

from freqdino.commands.command_line import exit_status, make_parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser(__doc__)
    parser.add_argument("model", help="a file of configs/quickstart, without .yaml")
    parser.add_argument("modules", nargs="+", metavar="module", help="freqfusion, fdconv, fdam")
    args = parser.parse_args(arguments)

    def work() -> None:
        from freqdino.analysis.ablation import OPTIONS, module_options

        for module in args.modules:
            if module not in OPTIONS:
                parser.error(f"there is no module {module}; known are {', '.join(OPTIONS)}")
        if len(set(args.modules)) < len(args.modules):
            parser.error(f"a module is named twice: {' '.join(args.modules)}")
        print(*module_options(args.model, args.modules))

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
