"""The SQL of running processes. Written by `metadata.generate_sql` from the typed models; not by hand."""

from typing import Final

SELECT_VOLUMES: Final = (
    "SELECT volumes.id, volumes.mode, volumes.dynakube, volumes.tenant, volumes.version, "
    "volumes.layer, volumes.target, volumes.read_only, volumes.pod_name, volumes.pod_namespace, "
    "volumes.pod_uid, volumes.state, volumes.attempts, volumes.first_failed_at, volumes.reason, "
    "volumes.changed_at FROM volumes"
)

PUT_VOLUME: Final = (
    "INSERT INTO volumes (id, mode, dynakube, tenant, version, layer, target, read_only, "
    "pod_name, pod_namespace, pod_uid, state, attempts, first_failed_at, reason, changed_at) "
    "VALUES (:id, :mode, :dynakube, :tenant, :version, :layer, :target, :read_only, :pod_name, "
    ":pod_namespace, :pod_uid, :state, :attempts, :first_failed_at, :reason, :changed_at) ON "
    "CONFLICT (id) DO UPDATE SET mode = excluded.mode, dynakube = excluded.dynakube, tenant = "
    "excluded.tenant, version = excluded.version, layer = excluded.layer, target = "
    "excluded.target, read_only = excluded.read_only, pod_name = excluded.pod_name, "
    "pod_namespace = excluded.pod_namespace, pod_uid = excluded.pod_uid, state = "
    "excluded.state, attempts = excluded.attempts, first_failed_at = excluded.first_failed_at, "
    "reason = excluded.reason, changed_at = excluded.changed_at"
)

DROP_VOLUMES: Final = "DELETE FROM volumes"

DROP_VOLUME: Final = "DELETE FROM volumes WHERE volumes.id = :volume"

ADD_NOTICE: Final = (
    "INSERT INTO notices (at, kind, reason, message, dynakube, pod_name, pod_namespace, "
    "pod_uid) VALUES (:at, :kind, :reason, :message, :dynakube, :pod_name, :pod_namespace, "
    ":pod_uid)"
)

DROP_OLD_NOTICES: Final = "DELETE FROM notices WHERE notices.at < :before"

SELECT_NOTICES_AFTER: Final = (
    "SELECT notices.id, notices.at, notices.kind, notices.reason, notices.message, "
    "notices.dynakube, notices.pod_name, notices.pod_namespace, notices.pod_uid FROM notices "
    "WHERE notices.id > :after ORDER BY notices.id"
)

SELECT_DYNAKUBES: Final = (
    "SELECT dynakubes.name, dynakubes.tenant, dynakubes.version, dynakubes.layer, "
    "dynakubes.mount_attempts, dynakubes.mount_timeout_seconds, dynakubes.mount_policy, "
    "dynakubes.good_version, dynakubes.good_layer, dynakubes.cluster_id, dynakubes.host_tenant, "
    "dynakubes.condition, dynakubes.changed_at FROM dynakubes"
)

ADD_DYNAKUBE: Final = (
    "INSERT INTO dynakubes (name, tenant, version, layer, mount_attempts, "
    "mount_timeout_seconds, mount_policy, good_version, good_layer, cluster_id, host_tenant, "
    "condition, changed_at) VALUES (:name, :tenant, :version, :layer, :mount_attempts, "
    ":mount_timeout_seconds, :mount_policy, :good_version, :good_layer, :cluster_id, "
    ":host_tenant, :condition, :changed_at)"
)

DROP_DYNAKUBES: Final = "DELETE FROM dynakubes"

SELECT_VERSIONS: Final = (
    "SELECT versions.version, versions.state, versions.source, versions.size_bytes, "
    "versions.message, versions.installed_at, versions.last_used_at, versions.changed_at FROM "
    "versions"
)

PUT_VERSION: Final = (
    "INSERT INTO versions (version, state, source, size_bytes, message, installed_at, "
    "last_used_at, changed_at) VALUES (:version, :state, :source, :size_bytes, :message, "
    ":installed_at, :last_used_at, :changed_at) ON CONFLICT (version) DO UPDATE SET state = "
    "excluded.state, source = excluded.source, size_bytes = excluded.size_bytes, message = "
    "excluded.message, installed_at = excluded.installed_at, last_used_at = "
    "excluded.last_used_at, changed_at = excluded.changed_at"
)

DROP_VERSION: Final = "DELETE FROM versions WHERE versions.version = :gone"

SELECT_CURSOR: Final = "SELECT cursors.notice_id FROM cursors WHERE cursors.reader = :name"

PUT_CURSOR: Final = (
    "INSERT INTO cursors (reader, notice_id) VALUES (:reader, :notice_id) ON CONFLICT (reader) "
    "DO UPDATE SET notice_id = excluded.notice_id"
)

SCHEMA: Final = (
    ("CREATE TABLE cursors ( reader VARCHAR NOT NULL, notice_id INTEGER NOT NULL, PRIMARY KEY (reader) )"),
    (
        "CREATE TABLE dynakubes ( name VARCHAR NOT NULL, tenant VARCHAR NOT NULL, version VARCHAR "
        "NOT NULL, layer VARCHAR NOT NULL, mount_attempts INTEGER NOT NULL, mount_timeout_seconds "
        "DOUBLE NOT NULL, mount_policy VARCHAR NOT NULL, good_version VARCHAR NOT NULL, good_layer "
        "VARCHAR NOT NULL, cluster_id VARCHAR NOT NULL, host_tenant BOOLEAN NOT NULL, condition "
        "VARCHAR NOT NULL, changed_at DOUBLE NOT NULL, PRIMARY KEY (name) )"
    ),
    (
        "CREATE TABLE notices ( id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, at DOUBLE NOT NULL, "
        "kind VARCHAR NOT NULL, reason VARCHAR NOT NULL, message VARCHAR NOT NULL, dynakube VARCHAR "
        "NOT NULL, pod_name VARCHAR NOT NULL, pod_namespace VARCHAR NOT NULL, pod_uid VARCHAR NOT "
        "NULL )"
    ),
    (
        "CREATE TABLE versions ( version VARCHAR NOT NULL, state VARCHAR NOT NULL, source VARCHAR "
        "NOT NULL, size_bytes INTEGER NOT NULL, message VARCHAR NOT NULL, installed_at DOUBLE NOT "
        "NULL, last_used_at DOUBLE NOT NULL, changed_at DOUBLE NOT NULL, PRIMARY KEY (version) )"
    ),
    (
        "CREATE TABLE volumes ( id VARCHAR NOT NULL, mode VARCHAR NOT NULL, dynakube VARCHAR NOT "
        "NULL, tenant VARCHAR NOT NULL, version VARCHAR NOT NULL, layer VARCHAR NOT NULL, target "
        "VARCHAR NOT NULL, read_only BOOLEAN NOT NULL, pod_name VARCHAR NOT NULL, pod_namespace "
        "VARCHAR NOT NULL, pod_uid VARCHAR NOT NULL, state VARCHAR NOT NULL, attempts INTEGER NOT "
        "NULL, first_failed_at DOUBLE NOT NULL, reason VARCHAR NOT NULL, changed_at DOUBLE NOT "
        "NULL, PRIMARY KEY (id) )"
    ),
    ("CREATE INDEX volumes_version ON volumes (version)"),
)
