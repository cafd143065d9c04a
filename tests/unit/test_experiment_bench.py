"""What studies are played on."""

from pathlib import Path

from support import studies

bench = studies.bench


def test_what_studies_ask_for_is_kept_and_counted_once(bench):
    made = []

    def make():
        made.append(1)
        return [1, 2]

    assert bench.figures("moon", {"a": 1}, make) == bench.figures("moon", {"a": 1}, make) == [1, 2]
    assert len(made) == 1
    bench.figures("moon", {"a": 2}, make)
    assert len(made) == 2
    assert (
        len(
            list(
                Path(
                    bench.cache.path({"setting": {"name": "x", "seed": 0}, "method": "y"})
                ).parent.iterdir()
            )
        )
        == 2
    )
