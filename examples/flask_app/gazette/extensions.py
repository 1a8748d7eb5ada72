"""The extensions, which the application is given to in `create_app`."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from oban_sync.integrations.flask import FlaskOban


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)
# Transactional workers get the session that the rest of the application uses.
oban = FlaskOban(session=db.session)
