"""What the scripts of the repository and the console commands call: arguments, messages, exit status."""
from freqdino.commands.command_line import quiet_about_torchscript, quiet_without_gpu

quiet_without_gpu()     # here, since processes that a command starts import this package, too
quiet_about_torchscript()
