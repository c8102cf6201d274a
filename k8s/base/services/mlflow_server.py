"""MLflow on PostgreSQL behind its own authentication: ``migrate`` its two databases, then ``serve``.

No password stands in an argument, where ``ps`` would show it. From the environment: POSTGRES_HOST, POSTGRES_USER,
POSTGRES_PASSWORD, and what ``mlflow server`` itself reads (MLFLOW_ARTIFACTS_DESTINATION, MLFLOW_AUTH_ADMIN_PASSWORD,
MLFLOW_FLASK_SERVER_SECRET_KEY, ...). Optional: POSTGRES_PORT, MLFLOW_PORT.
"""

import os
import sys
from configparser import ConfigParser
from pathlib import Path
from tempfile import gettempdir
from urllib.parse import quote

RUNS, USERS = "mlflow", "mlflow_auth"


def uri(database: str, driver: str = "+psycopg2") -> str:
    name, password = (quote(os.environ[f"POSTGRES_{part}"], safe="") for part in ("USER", "PASSWORD"))
    address = f"{os.environ['POSTGRES_HOST']}:{os.environ.get('POSTGRES_PORT', '5432')}"
    return f"postgresql{driver}://{name}:{password}@{address}/{database}"


def migrate() -> None:
    """Make what is missing, upgrade what is old. Doing it again changes nothing."""
    import mlflow.store.db.utils as runs
    import psycopg2
    from mlflow.server.auth.db import utils as users

    server = psycopg2.connect(uri(RUNS, driver=""), connect_timeout=10)
    server.autocommit = True
    with server.cursor() as cursor:
        cursor.execute("select 1 from pg_database where datname = %s", (USERS,))
        if cursor.fetchone() is None:
            cursor.execute(f"create database {USERS}")
    server.close()
    engine = runs.create_sqlalchemy_engine_with_retry(uri(RUNS))
    if runs._is_empty_database(engine):
        runs._initialize_tables(engine)
    else:
        runs._upgrade_db(engine)
    users.migrate(runs.create_sqlalchemy_engine_with_retry(uri(USERS)), "head")


def serve() -> None:
    """Become the server."""
    settings = ConfigParser(interpolation=None)
    settings["mlflow"] = {
        "default_permission": "READ",
        "database_uri": uri(USERS).replace("%", "%%"),  # MLflow reads the file with interpolation
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    file = Path(gettempdir()) / "mlflow-auth.ini"
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        settings.write(opened)
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(file)
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri(RUNS)
    port = os.environ.get("MLFLOW_PORT", "5000")
    command = ["mlflow", "server", "--host", "0.0.0.0", "--port", port, "--workers", "1", "--app-name", "basic-auth"]
    os.execvp(command[0], command)


if __name__ == "__main__":
    {"migrate": migrate, "serve": serve}[sys.argv[1]]()
