//! Authentication: a request has a bearer token (JWT), whose claim `sub` is the user.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::RequestPartsExt;
use axum::extract::{FromRequestParts, Path};
use axum::http::{header::AUTHORIZATION, request::Parts};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use serde::Deserialize;

use crate::App;
use crate::error::Error;

/// The key that verifies tokens, and the only algorithm that is accepted with it.
pub struct Keys(DecodingKey, Validation);

impl Keys {
    /// Takes either the public key of an issuer that signs with Ed25519, or a secret that is shared with the issuer.
    pub fn new(public_key: Option<String>, secret: Option<String>) -> Result<Self, String> {
        let (key, algorithm) = match (public_key, secret) {
            (Some(pem), None) => {
                let key = DecodingKey::from_ed_pem(pem.replace("\\n", "\n").as_bytes());
                (key.map_err(|error| format!("JWT_ED25519_PUBLIC_KEY cannot be read: {error}"))?, Algorithm::EdDSA)
            }
            // A shorter secret could be guessed from a token.
            (None, Some(secret)) if secret.len() < 32 => {
                return Err("JWT_HS256_SECRET must have at least 32 bytes".into());
            }
            (None, Some(secret)) => (DecodingKey::from_secret(secret.as_bytes()), Algorithm::HS256),
            _ => return Err("set either JWT_ED25519_PUBLIC_KEY or JWT_HS256_SECRET".into()),
        };
        // By default, `exp` is required and a token for another audience is refused.
        let mut validation = Validation::new(algorithm);
        validation.validate_nbf = true;
        // A token is valid until the second `exp` begins, so that a stream ends together with its token.
        validation.leeway = 0;
        validation.reject_tokens_expiring_in_less_than = 1;
        Ok(Self(key, validation))
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
}

/// The caller of a request.
pub struct Caller {
    /// The id of the user.
    pub user: String,
    /// The id of the app.
    pub app: String,
    /// The id of the device; `None` if the request names none.
    pub client: Option<String>,
    /// The time at which the token expires, in seconds since 1970.
    expires: u64,
}

impl Caller {
    /// Returns the time for which the token is still valid.
    pub fn remaining(&self) -> Duration {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(self.expires).saturating_sub(now)
    }
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Error> {
        let token = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        let token = token.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim());
        let token = token.ok_or_else(|| Error::unauthorized("a bearer token is required"))?;
        let claims = decode::<Claims>(token, &app.keys.0, &app.keys.1).map(|token| token.claims);
        let Claims { sub: user, exp } =
            claims.map_err(|error| Error::unauthorized(format!("the token is not valid: {error}")))?;
        // A text in PostgreSQL cannot contain NUL.
        if user.is_empty() || user.contains('\0') {
            return Err(Error::unauthorized("the token is not valid: sub"));
        }
        let Path(app) = parts.extract::<Path<String>>().await?;
        let client = header(parts, "x-client-id")?.map(str::to_string);
        Ok(Self { user, app, client, expires: exp })
    }
}

/// Returns a header of a request. An empty header counts as missing.
pub fn header<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>, Error> {
    let text = parts.headers.get(name).map(|value| std::str::from_utf8(value.as_bytes())).transpose();
    let text = text.map_err(|_| Error::bad_request(format!("the header {name} is not UTF-8")))?;
    Ok(text.filter(|text| !text.is_empty()))
}
