"""Which tables nf_tables has, as `nft` lists them."""

from typing import Final

LIST: Final = ("nft", "list", "chains")
"""To list tables, nft reads every element of each: half a second with 150,000 endpoints. To list
chains it reads none.
"""


def tables(listing: str) -> list[str]:
    """The tables in what `LIST` prints, such as `table ip kube-proxy`."""
    return [line.removesuffix(" {") for line in listing.splitlines() if line.startswith("table ")]
