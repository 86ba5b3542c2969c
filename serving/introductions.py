"""The experts that a graph's model may call: the published ones, and added ones once they have said what they are.

An added expert is known by its card alone, which its service shows. The model does not wait for it: an expert that is
not up yet, or scaled to zero, is offered from the moment it has answered once.
"""

import logging
import threading
from collections.abc import Iterable, Mapping

from serving.graph import OnPaper
from vilam3.errors import UserError
from vilam3.experts.facts import ARGUMENTS
from vilam3.experts.roster import Listed, published
from vilam3.services.experts import fetch_card
from vilam3.services.http import check_url
from vilam3.services.visit import Waits

ASK_AGAIN_S = 5.0

log = logging.getLogger(__name__)


class Introductions:
    """Asks added experts for their cards, in a thread, so that nobody waits."""

    def __init__(self, urls: Mapping[str, str], *, ask_again_s: float = ASK_AGAIN_S) -> None:
        """Begin to ask.

        Args:
            urls: Address of each expert's service by its name in triggers; published ones are not asked.
            ask_again_s: Between two attempts.

        Raises:
            UserError: an address is none.
        """
        self._pause_s = ask_again_s
        self._listed = {name: known for name in ARGUMENTS if (known := published(name))}
        self._left = threading.Event()
        added = {
            name: check_url(url, option=f"--expert-url {name}=") for name, url in urls.items() if name not in ARGUMENTS
        }
        if added:
            threading.Thread(target=self._ask, args=(added,), name="introductions", daemon=True).start()

    def roster(self) -> OnPaper:
        """Those known by now."""
        experts: Iterable[Listed] = list(self._listed.values())
        return OnPaper(experts)

    def close(self) -> None:
        """Ask no more."""
        self._left.set()

    def _ask(self, urls: dict[str, str]) -> None:
        while urls and not self._left.is_set():
            for name in list(urls):
                try:
                    self._listed[name] = fetch_card(name, urls[name], Waits(warmup_s=0))
                except UserError:  # it is not up yet
                    continue
                del urls[name]
                log.info("expert is known", extra={"expert": name})
            self._left.wait(self._pause_s)
