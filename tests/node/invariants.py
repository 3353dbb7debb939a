"""What must be true of a node at any moment, whatever crashed in between."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from oneagent.common.agents.oneagent import PRELOAD_LIBRARY
from oneagent.csi_driver.data_dir import DataDir
from oneagent.csi_driver.linux import mount_table
from oneagent.csi_driver.store import mounted_views


def violations(
    data: DataDir,
    target_root: str,
    rows: Mapping[str, Mapping[str, Any]],
    *,
    unmounted: Collection[str] = (),
    unknown: Collection[str] = (),
) -> list[str]:
    """Every rule that is broken. `rows` are the volumes that the driver knows, by id.

    `unmounted` are volumes whose mounts a reboot took; `unknown` are targets whose rows were lost for good.
    """
    mounts = mount_table.at_or_below(mount_table.read(), target_root)
    found = [f"{target} has {count} mounts" for target, count in Counter(m.target for m in mounts).items() if count > 1]
    shown = mounted_views.find(mounts, data)
    owned = {view.mount.target for view in shown}
    found += [
        f"a view of nobody at {overlay.mount.target}"
        for overlay in mount_table.overlays(mounts)
        if overlay.mount.target not in owned
    ]
    views = {str(view.volume): view for view in shown}
    for volume, view in views.items():
        row = rows.get(volume)
        if not view.is_complete:
            # A crash left it, and the next call undoes it.
            found += [] if row is not None and row["state"] != "empty" else [f"half a view of {volume}: {row}"]
            continue
        version, target = view.version, view.mount.target
        agent = target if view.agent is None else view.agent.target
        if not version or not os.path.isfile(f"{data.agent(version)}/{PRELOAD_LIBRARY}"):
            found.append(f"the view of {volume} has lost its version {version}")
        if not os.path.isfile(f"{agent}/{PRELOAD_LIBRARY}"):
            found.append(f"the view of {volume} shows no agent")
        if not os.path.isfile(f"{target}/agent/conf/container.conf"):
            found.append(f"the view of {volume} has lost its upper layer")
        if row is None:
            found.append(f"the view of {volume} has no row")
        elif (row["target"], row["version"]) != (target, version):
            found.append(f"the row of {volume} tells of another view: {dict(row)}")
        elif row["state"] not in {"mounted", "mounting"}:
            found.append(f"the row of {volume}, which has a view, says {row['state']}")
    targets = {mount.target for mount in mounts}
    agents = {view.agent.target for view in shown if view.agent is not None}
    found += [
        f"{mount.target} is mounted and has no row"
        for mount in mounts
        if mount.target not in {*unknown, *agents, *(row["target"] for row in rows.values())}
    ]
    found += [
        f"{volume} has a row that says mounted, and no mount"
        for volume, row in rows.items()
        if row["state"] == "mounted" and row["target"] not in targets and volume not in unmounted
    ]
    found += [
        f"the folder of {volume} is nobody's"
        for volume in os.listdir(data.volumes)
        if volume not in views and volume not in rows
    ]
    return found


def remains(data: DataDir, target_root: str, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is left although every volume was unpublished."""
    found = [f"mount {mount.target}" for mount in mount_table.at_or_below(mount_table.read(), target_root)]
    found += [f"row {volume}" for volume in rows]
    found += [f"folder {volume}" for volume in os.listdir(data.volumes)]
    for folder, folders, _ in os.walk(target_root):
        found += [f"target {folder}/mount" for name in folders if name == "mount"]
    return found
