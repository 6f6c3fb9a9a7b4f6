"""A participant of NVIDIA FLARE: trains `softmax.py` whenever it is asked. The first one notes the rounds."""

import sys
from pathlib import Path

import numpy as np
import nvflare.client as flare

sys.path.insert(0, sys.argv[1])
import softmax

flare.init()
number, parts, times = int(flare.get_site_name().rpartition("-")[2]) - 1, int(sys.argv[2]), Path(sys.argv[3])
x, y = softmax.part(number, parts)
while flare.is_running():
    asked = flare.receive()
    if asked is None:
        break
    ((name, weights),) = asked.params.items()
    if number == 0:
        softmax.note(times, np.asarray(weights))
    made = softmax.epoch(np.asarray(weights), x, y)
    flare.send(flare.FLModel(params={name: made}, meta={"NUM_STEPS_CURRENT_ROUND": len(y)}))
