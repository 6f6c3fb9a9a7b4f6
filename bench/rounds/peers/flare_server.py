"""Runs NVIDIA FLARE's simulator. Arguments: this folder, participants, rounds, file of times, workspace."""

import sys

import numpy as np
import softmax
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

folder, parts, rounds, times, workspace = sys.argv[1:]
recipe = NumpyFedAvgRecipe(
    name="digits",
    model=np.zeros((softmax.CLASSES, softmax.FEATURES + 1)).tolist(),
    min_clients=int(parts),
    num_rounds=int(rounds),
    train_script=f"{folder}/flare_client.py",
    train_args=f"{folder} {parts} {times}",
)
recipe.execute(SimEnv(num_clients=int(parts), workspace_root=workspace))
