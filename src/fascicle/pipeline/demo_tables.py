"""What lies beside the volume of a demo of real data: tables of synapses, regions and notes on bodies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fascicle.pipeline.neuron_table import check_neurons, post_neurons, read_neurons
from fascicle.pipeline.roi_table import Regions, post_regions, stage_regions
from fascicle.pipeline.synapse_staging import Staging
from fascicle.pipeline.synapse_table import post_elements, stage
from fascicle.pipeline.tables import KINDS

if TYPE_CHECKING:
    from fascicle.pipeline.ingest_connections import Connection

_NAMES = ("synapses", "rois", "neurons")
_ENDINGS = [ending for kind in KINDS for ending in (kind, f"{kind}.gz")]
_ROI_BLOCK = 32


def tables_in(folder: Path) -> dict[str, Path]:
    """The tables of a folder by what they are of: `synapses`, `rois`, `neurons`, with any ending of a table."""
    found = {}
    for name in _NAMES:
        paths = [path for path in (folder / f"{name}.{ending}" for ending in _ENDINGS) if path.is_file()]
        if paths:
            found[name] = paths[0]
    return found


def load_tables(connection: Connection, node: str, folder: Path, user: str) -> None:
    """Write the tables of a folder into the instances of the profile for proofreading. Raises TableError."""
    instances = connection.json("GET", f"/api/repo/{node}/info")["DataInstances"]
    tables = tables_in(folder)
    if "synapses" in tables:
        with Staging() as staged:
            stage(tables["synapses"], None, staged)
            post_elements(connection, node, "synapses", staged.elements(), lambda stored: None)
    if "rois" in tables:
        with Regions() as regions:
            stage_regions(tables["rois"], "", regions)
            post_regions(connection, node, regions, instances, _ROI_BLOCK)
    if "neurons" in tables:
        check_neurons(tables["neurons"])
        neurons = read_neurons(tables["neurons"])
        post_neurons(connection, node, "segmentation_annotations", neurons, user, replace=False)
