"""The state of one node, put together from the three truths: mount table, agent store, metadata database.

It only reads and it always has an answer. What can't be read is said in `problems`, and the rest is still
shown: without a database the versions come from the store, the views from the mount table, and the DynaKubes
from the copy that the provisioner leaves for the server. Fields are only ever added to the JSON form;
`format` changes if one has to go.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from oneagent.common import logs  # noqa: F401
from oneagent.common.names import PRELOAD_LIBRARY, Version
from oneagent.csi_driver import mounttable, recorded
from oneagent.csi_driver.metadata.dynakubes import Wanted
from oneagent.csi_driver.metadata.states import VersionState, VolumeState
from oneagent.csi_driver.metadata.volumes import VolumeRecord
from oneagent.csi_driver.mounttable import Mount, Overlay
from oneagent.csi_driver.paths import DataFolder, VolumeId
from oneagent.csi_driver.recorded import Recorded
