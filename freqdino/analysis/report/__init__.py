"""One page about a run: what it was, how it learnt, what it does best and worst, what it costs."""
