"""An institution's door: the only executor of its SuperNode, which runs allowed app bundles alone.

Flower's own executor runs whatever bundle the SuperLink hands out. This one takes its place, by
Flower's process isolation: nothing of Flower is patched, and nothing else holds the secret that
the SuperNode gives tasks out for.
"""
