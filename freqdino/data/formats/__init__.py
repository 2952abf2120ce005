"""Instances in other people's formats: a module each that reads one, and what turns any of them into a COCO file."""
