//! The HTTP status of each error, and the part of the error that the client sees.

use std::error::Error as _;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use deadpool_postgres::PoolError;
use serde_json::json;
use tokio_postgres::error::DbError;

/// An answer that is an error: `{"error": …, "detail"?: …}`.
pub struct Error {
    status: StatusCode,
    message: String,
    detail: Option<String>,
}

impl Error {
    /// Creates an error with a message for the client.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), detail: None }
    }

    /// Creates the error for a token that is missing or not valid.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// Creates the error for a request that cannot be read.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Creates the error for a database that is not available now. The client should try again.
    pub fn unavailable() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database is not available, try again later")
    }

    /// Returns whether the same request may succeed if it is sent again later.
    pub fn is_temporary(&self) -> bool {
        self.status.is_server_error()
    }

    /// Returns the body of the answer.
    pub fn body(&self) -> String {
        match &self.detail {
            Some(detail) => json!({"error": self.message, "detail": detail}).to_string(),
            None => json!({"error": self.message}).to_string(),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<PoolError> for Error {
    fn from(error: PoolError) -> Self {
        tracing::error!("no connection: {error}{}", cause(&error));
        Self::unavailable()
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(error) = error.as_db_error() {
            return from_sql(error);
        }
        tracing::error!("{error}{}", cause(&error));
        if error.is_closed() || error.source().is_some_and(|source| source.is::<std::io::Error>()) {
            return Self::unavailable();
        }
        internal()
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        tracing::error!("an answer of the database cannot be read: {error}");
        internal()
    }
}

/// Maps a SQLSTATE to a status. The client sees the server's message if the request is at fault. Other messages are only
/// logged.
fn from_sql(error: &DbError) -> Error {
    // Each error of the extension names an argument in its DETAIL, and its texts are meant for the client.
    let is_ours = error.detail().is_some_and(|detail| detail.starts_with("Argument: "));
    let told = |status| Error { status, message: error.message().into(), detail: error.detail().map(str::to_string) };
    match error.code().code() {
        // 22021 is a text with a NUL: JSON cannot contain one, but a URL can.
        "22023" | "22P02" | "22P05" | "22003" | "22021" | "54001" => return told(StatusCode::BAD_REQUEST),
        "42501" if is_ours && error.message().ends_with("not a member of the space") => {
            return told(StatusCode::FORBIDDEN);
        }
        "23505" | "55000" if is_ours => return told(StatusCode::CONFLICT),
        _ => {}
    }
    tracing::error!("{} {} ({})", error.code().code(), error.message(), error.detail().unwrap_or_default());
    match error.code().code() {
        "42501" => Error::new(StatusCode::FORBIDDEN, "not allowed"),
        "23505" | "55000" => Error::new(StatusCode::CONFLICT, "in conflict with what is stored"),
        // A timeout cancelled the statement, the server is read-only, or the transaction may be repeated.
        "57014" | "25006" | "40001" | "40P01" => Error::unavailable(),
        code if ["08", "53", "57P0"].iter().any(|class| code.starts_with(class)) => Error::unavailable(),
        _ => internal(),
    }
}

macro_rules! from_rejection {
    ($($rejection:ty),+) => {$(
        impl From<$rejection> for Error {
            fn from(error: $rejection) -> Self {
                Self::new(error.status(), error.body_text())
            }
        }
    )+};
}
from_rejection!(BytesRejection, PathRejection, QueryRejection);

fn internal() -> Error {
    Error::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
}

/// Formats the chain of causes of an error, for the log.
pub fn cause(error: &dyn std::error::Error) -> String {
    error.source().map(|source| format!(": {source}{}", cause(source))).unwrap_or_default()
}
