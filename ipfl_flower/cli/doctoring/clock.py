"""How far a SuperLink's clock is from this machine's, by which timestamps it accepts.

Neither TLS nor gRPC tells the time. But a SuperLink that authenticates its nodes refuses a signed
timestamp that is not near its own time, and says so: where it begins to refuse, its clock is known.
"""

from collections.abc import Callable

from ipfl_flower.cli.doctoring.finding import Verdict, fail, ok, warn

RESOLUTION_S = 0.2
SEARCH_S = 3600.0
# Above this it is no delay of the network.
SKEW_S = 2.0


def measure_skew(accepts: Callable[[float], bool], ahead_s: float, behind_s: float) -> float | None:
    """Return by how much the SuperLink's clock is ahead of this one.

    Parameters
    ----------
    accepts : callable
        Asks whether a timestamp is accepted that is by so many seconds later than now.
    ahead_s, behind_s : float
        By how much a timestamp may be ahead of the SuperLink's clock, and behind it.

    Returns
    -------
    float or None
        Seconds, ± `RESOLUTION_S` and the time that a call takes; None: more than an hour.
    """
    window = ahead_s + behind_s
    step = window * 0.9  # No two neighbours both miss the window.
    offsets = [0.0]
    while offsets[-1] < SEARCH_S:
        offsets += [-(abs(offsets[-1]) + step), abs(offsets[-1]) + step]
    accepted = next((offset for offset in offsets if accepts(offset)), None)
    if accepted is None:
        return None
    refused = accepted + window
    while refused - accepted > RESOLUTION_S:
        middle = (accepted + refused) / 2
        if accepts(middle):
            accepted = middle
        else:
            refused = middle
    return (accepted + refused) / 2 - ahead_s


def judge_skew(skew_s: float | None, ahead_s: float, behind_s: float) -> Verdict:
    """Tell whether two clocks are near enough to each other.

    Parameters
    ----------
    skew_s : float or None
        What `measure_skew` returned.
    ahead_s, behind_s : float
        By how much a SuperNode's clock may be ahead of the SuperLink's, and behind it.
    """
    fix = "set whichever is wrong (NTP)"
    if skew_s is None:
        hour = f"{SEARCH_S / 60:g} minutes"
        return fail(f"this machine's clock and the SuperLink's are more than {hour} apart: {fix}")
    if abs(skew_s) <= SKEW_S:
        return ok(f"within {SKEW_S:g} s of the SuperLink's")
    line = (
        f"this machine's is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the "
        f"SuperLink's, which refuses who is {ahead_s:g} s ahead or {behind_s:g} s behind: {fix}"
    )
    return warn(line) if -ahead_s < skew_s < behind_s else fail(line)
