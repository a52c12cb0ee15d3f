"""The list of domain names that a public summary of training content refers to: the top 10 % by size, as CSV."""

import csv
import io
import re

from fanal.shown import on_one_line
from pretrain.drafts.data_figures import hosts, num_top_of_small_companies, top_hosts
from pretrain.drafts.facts import Facts

FILE_NAME = "eu-public-summary-domains.csv"
HEAD = ("rank", "domain_name", "different_tokens", "documents", "of_small_companies_too")
HOST = re.compile(r"\w[\w.-]*")
"""What is a name as it is. Programs that show tables take =, +, - and @ for the beginning of a formula."""


def render(facts: Facts) -> str:
    """Return the list; its first line alone where no document states its host."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEAD)
    small = num_top_of_small_companies(len(hosts(facts)))
    for rank, amount in enumerate(top_hosts(facts), start=1):
        name = on_one_line(amount["name"])
        shown = name if HOST.fullmatch(name) else f"'{name}"
        writer.writerow((rank, shown, amount["distinct_tokens"], amount["documents"], "yes" if rank <= small else "no"))
    return stream.getvalue()
