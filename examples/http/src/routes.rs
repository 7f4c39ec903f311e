//! The routes. Each passes the body of a request to SQL and the body of the answer back, both unchanged.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use crate::App;
use crate::auth::Caller;
use crate::error::Error;
use crate::stream::stream;

/// The largest body of a request, in bytes.
const LARGEST_BODY: usize = 10 * 1024 * 1024;

/// Returns the router with all routes.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/sync/{app}", post(sync))
        .route("/sync/{app}/pull", get(pull))
        .route("/sync/{app}/stream", get(stream))
        .route("/health", get(health))
        .fallback(async || Error::new(StatusCode::NOT_FOUND, "there is nothing here"))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(Arc::new(app))
}

async fn sync(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Error> {
    let body = body?;
    let changeset = std::str::from_utf8(&body).map_err(|_| Error::bad_request("the body is not UTF-8"))?;
    let (body, resync) = app.db.sync(&caller, changeset).await?;
    Ok(json(resync, body))
}

#[derive(Deserialize)]
struct PullQuery {
    collection: Option<String>,
    since: Option<String>,
    limit: Option<i32>,
}

async fn pull(
    State(app): State<Arc<App>>,
    caller: Caller,
    query: Result<Query<PullQuery>, QueryRejection>,
) -> Result<Response, Error> {
    let Query(PullQuery { collection, since, limit }) = query?;
    let (body, resync) = app.db.pull(&caller, collection, since, limit).await?;
    Ok(json(resync, body))
}

async fn health(State(app): State<Arc<App>>) -> Result<Response, Error> {
    app.db.check().await?;
    Ok(json(false, r#"{"status":"ok"}"#.into()))
}

/// Creates an answer from a JSON text. The status is 409 if the client must begin again, and 200 otherwise.
pub fn json(resync: bool, body: String) -> Response {
    let status = if resync { StatusCode::CONFLICT } else { StatusCode::OK };
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
