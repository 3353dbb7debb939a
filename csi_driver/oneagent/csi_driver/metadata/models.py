"""The tables. Each has exactly one writer, which its docstring names; the other process only reads.

Times are seconds since the epoch by `linux.clock.SteadyClock`. Directory names (version, tenant, layer, volume id) are
checked by `data_dir` first.
"""

from __future__ import annotations

from sqlalchemy import Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The schema's root; `Base.metadata` is what migrations are compared with."""


class VolumeRow(Base):
    """kubelet's request for one pod's volume. Written by the server."""

    __tablename__ = "volumes"

    id: Mapped[str] = mapped_column(primary_key=True)
    mode: Mapped[str]
    dynakube: Mapped[str]
    tenant: Mapped[str] = mapped_column(default="")
    version: Mapped[str] = mapped_column(default="")
    layer: Mapped[str] = mapped_column(default="")
    target: Mapped[str]
    read_only: Mapped[bool] = mapped_column(default=False)
    pod_name: Mapped[str] = mapped_column(default="")
    pod_namespace: Mapped[str] = mapped_column(default="")
    pod_uid: Mapped[str] = mapped_column(default="")
    state: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    first_failed_at: Mapped[float] = mapped_column(default=0.0)
    reason: Mapped[str] = mapped_column(default="")
    changed_at: Mapped[float]

    __table_args__ = (Index("volumes_version", "version"),)


class NoticeRow(Base):
    """A message of the server for the cluster; the provisioner, which has API access, creates the Event.

    Written by the server, which also removes old ones.
    """

    __tablename__ = "notices"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    at: Mapped[float]
    kind: Mapped[str]
    reason: Mapped[str]
    message: Mapped[str]
    dynakube: Mapped[str]
    pod_name: Mapped[str]
    pod_namespace: Mapped[str]
    pod_uid: Mapped[str]

    __table_args__ = ({"sqlite_autoincrement": True},)


class DynaKubeRow(Base):
    """Desired version and settings of one DynaKube. Written by the provisioner."""

    __tablename__ = "dynakubes"

    name: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str] = mapped_column(default="")
    version: Mapped[str] = mapped_column(default="")
    layer: Mapped[str] = mapped_column(default="")
    mount_attempts: Mapped[int]
    mount_timeout_seconds: Mapped[float]
    mount_policy: Mapped[str] = mapped_column(default="wait")
    good_version: Mapped[str] = mapped_column(default="")
    good_layer: Mapped[str] = mapped_column(default="")
    cluster_id: Mapped[str] = mapped_column(default="")
    host_tenant: Mapped[bool] = mapped_column(default=False)
    condition: Mapped[str] = mapped_column(default="")
    changed_at: Mapped[float]


class VersionRow(Base):
    """An agent version on its way into the store, or in it. Written by the provisioner."""

    __tablename__ = "versions"

    version: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    source: Mapped[str] = mapped_column(default="")
    size_bytes: Mapped[int] = mapped_column(default=0)
    message: Mapped[str] = mapped_column(default="")
    installed_at: Mapped[float] = mapped_column(default=0.0)
    last_used_at: Mapped[float] = mapped_column(default=0.0)
    changed_at: Mapped[float]


class CursorRow(Base):
    """The last notice that a reader has processed. Written by the provisioner."""

    __tablename__ = "cursors"

    reader: Mapped[str] = mapped_column(primary_key=True)
    notice_id: Mapped[int]
