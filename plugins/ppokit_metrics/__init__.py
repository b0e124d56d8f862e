"""Metrics of Hugging Face `evaluate` that need no network, and how a recipe's metric is found.

    evaluate.load(f"{folder}/rouge")     as any metric that lies in a folder

Each has the arguments and the numbers of the hub's metric of that name, and one argument more:
`use_aggregator: false` gives a number per response in place of one for all of them.
"""
