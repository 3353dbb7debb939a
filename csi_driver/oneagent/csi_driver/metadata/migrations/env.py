"""Alembic's environment; the connection, with its open transaction, comes from `metadata.migrate`."""

from alembic import context

from oneagent.csi_driver.metadata import models

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=models.Base.metadata,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
