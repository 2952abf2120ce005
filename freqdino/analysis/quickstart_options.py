#!/usr/bin/env python
"""Print the options that put frequency modules into a quickstart model, for the end of train_net.py's command line.

    python tools/quickstart_options.py mask2former freqfusion fdam
"""
import argparse

# Frequency module -> model -> the option that switches it on; "" stands for every model without a row of its own.
OPTIONS = {
    "freqfusion": {"": "MODEL.SEM_SEG_HEAD.FREQFUSION.ENABLED True", "maskrcnn": "MODEL.FPN.UPSAMPLER freqfusion"},
    "fdconv": {"": "MODEL.BACKBONE.FDCONV.ENABLED True"},
    "fdam": {"": "MODEL.SEM_SEG_HEAD.FDAM.ENABLED True", "maskrcnn": "MODEL.BACKBONE.FDAM.ENABLED True"},
}


def module_options(model, modules):
    """The words KEY VALUE ... for ``modules``, names of OPTIONS, in the model configs/quickstart/<model>.yaml."""
    by_model = (OPTIONS[module] for module in modules)
    return [word for options in by_model for word in options.get(model, options[""]).split()]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a file of configs/quickstart, without .yaml")
    parser.add_argument("modules", nargs="+", choices=OPTIONS, metavar="module", help=", ".join(OPTIONS))
    args = parser.parse_args(arguments)
    if len(set(args.modules)) < len(args.modules):
        parser.error(f"a module is named twice: {' '.join(args.modules)}")
    print(*module_options(args.model, args.modules))


if __name__ == "__main__":
    main()
