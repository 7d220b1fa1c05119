"""The FastAPI application: routes, authentication, errors."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from quire import __version__
from quire.async_llm import AsyncLLM
from quire.errors import BackendError
from quire.server import chat_completions, completions
from quire.server.authentication import ApiKeyMiddleware
from quire.server.body_budget import BodyBudget
from quire.server.body_limits import BodyLimits
from quire.server.cache_scope import CacheScope
from quire.server.config import ServerConfig
from quire.server.errors import install_handlers
from quire.server.generation import Serving, serving_of
from quire.server.metrics import ServerMetrics
from quire.server.overload import RequestLimit

STATS_TIMEOUT_S = 0.25
"""How long /metrics waits for the engine's figures of now before it gives those of before."""


def build_app(engine: AsyncLLM, config: ServerConfig) -> FastAPI:
    """The application over a started engine. The caller closes the engine."""
    app = FastAPI(title="Quire", version=__version__)
    app.state.serving = Serving(engine, config.model_names)
    app.state.body_limits = BodyLimits.for_model(
        engine.max_model_len, max_bytes=config.max_body_bytes, timeout_s=config.body_timeout_s
    )
    app.state.body_budget = BodyBudget(app.state.body_limits.max_bytes)
    app.state.cache_scope = CacheScope(config.prefix_cache_scope, len(config.api_keys))
    app.state.metrics = ServerMetrics(config.model_names[0])
    install_handlers(app)
    app.add_middleware(RequestLimit, max_requests=config.max_requests)
    if config.api_keys:
        app.add_middleware(ApiKeyMiddleware, api_keys=config.api_keys)
    _add_service_routes(app)
    app.include_router(completions.router)
    app.include_router(chat_completions.router)
    return app


def _add_service_routes(app: FastAPI) -> None:
    @app.get("/health")
    async def health(request: Request) -> Response:
        """200 while the engine lives and works; 503 while it is dead, starting again, or stuck."""
        serving_of(request).engine.check_health()
        return Response(status_code=200)

    @app.get("/ping")
    async def ping() -> Response:
        return Response(status_code=200)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Prometheus text format, with the engine's last known figures while it does not answer."""
        engine = serving_of(request).engine
        is_up, stats = _is_healthy(engine), engine.last_stats
        if is_up:
            with contextlib.suppress(BackendError, TimeoutError):  # then those of before
                stats = await asyncio.wait_for(engine.stats(), STATS_TIMEOUT_S)
        text = request.app.state.metrics.render(stats, is_up=is_up, num_restarts=engine.num_restarts)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, object]:
        serving = serving_of(request)
        return {"object": "list", "data": [_model_card(serving, name) for name in serving.model_names]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, object]:
        serving = serving_of(request)
        return _model_card(serving, serving.check_model(name))


def _is_healthy(engine: AsyncLLM) -> bool:
    try:
        engine.check_health()
    except BackendError:
        return False
    return True


def _model_card(serving: Serving, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": serving.created_s,
        "owned_by": "quire",
        "root": serving.engine.model_path,
        "parent": None,
        "max_model_len": serving.engine.max_model_len,
    }
