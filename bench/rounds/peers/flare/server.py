"""Runs NVIDIA FLARE's simulator. Arguments: `softmax.py`'s folder, participants, rounds, notes, workspace."""

import sys
from pathlib import Path

import softmax
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

folder, parts, rounds, times, workspace = sys.argv[1:]
recipe = NumpyFedAvgRecipe(
    name="digits",
    model=softmax.zeros().tolist(),
    min_clients=int(parts),
    num_rounds=int(rounds),
    train_script=str(Path(__file__).with_name("client.py")),
    train_args=f"{folder} {parts} {times}",
)
recipe.execute(SimEnv(num_clients=int(parts), workspace_root=workspace))
