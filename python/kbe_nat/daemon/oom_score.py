"""How soon the kernel ends this process when memory runs out (proc(5), oom_score_adj)."""

import logging
from pathlib import Path
from typing import Final


def set_oom_score(score: int, level: int = logging.DEBUG) -> None:
    """For this process and the commands that it runs, if it may: less than before takes
    CAP_SYS_RESOURCE. A refusal is logged at a level: a detail of the log, as in kube-proxy's.
    """
    try:
        SCORE.write_text(str(score))
    except OSError as error:
        LOG.log(level, "oom_score_adj cannot be %d: %s", score, error.strerror)


LOG: Final = logging.getLogger("kbe_nat.daemon")
SCORE: Final = Path("/proc/self/oom_score_adj")
